"""Cut documents into passages and index them for lexical and dense search."""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.embedding.adapter import MANIFEST_FILE
from tasks.embedding.embedder import Embedder
from tasks.embedding.prompts import lacks
from tasks.indexing.building import Encoder, build_index
from tasks.indexing.params import Params
from tasks.indexing.report import find_warnings, numbers, report
from tasks.models.loading import prepare_device
from tasks.models.manifest import ModelManifest
from tasks.prompting.passages import cut_passages
from tasks.records.schema import read_documents, read_records
from tasks.retrieval.index import RerankerSettings
from tasks.retrieval.reranking import Reranker
from tasks.stage.command import output, run_stage
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.pages import plain_markdown
from tasks.stage.params import RerankingParams

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """What indexing reads and writes."""

    curated: Path
    base: Path
    retriever: Path
    reranker: Path
    model_store: Path
    scratch: Path
    index: Path = output()
    indexing_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write the index and its report."""
    started = time.monotonic()
    device = prepare_device(params.compute)
    curated, searched = verified(paths.curated), verified(paths.retriever) / MANIFEST_FILE
    manifest = ModelManifest.read(searched)
    encoder = None
    if params.indexing.embeds:
        embedder = Embedder.load(searched, paths.model_store, device=device)
        # What learned of tonight's data makes vectors that no other night asks for.
        memos = paths.scratch / "memos" if manifest.adapter is None else None
        encoder = Encoder(embedder, memos)
    documents = read_documents(curated / "documents.jsonl")
    built = build_index(
        len(documents),
        cut_passages(
            documents,
            params.prompting,
            base=paths.base,
            embedder=searched,
            model_store=paths.model_store,
        ),
        read_records(curated / "validation.jsonl"),
        encoder,
        params.indexing,
        params.prompting,
        embedder=manifest.identity,
        reranker=choose_reranker(params.reranking, paths, device),
        progress=Curves(paths.scratch).progress,
    )
    prompts = None if encoder is None else encoder.embedder.prompts
    lacking = None if encoder is None else lacks(manifest, paths.model_store)
    warnings = find_warnings(built, lacking)
    with output_folders(paths.index, paths.indexing_report) as (folder, told):
        built.index.save(folder)
        write_metrics(told, numbers(built, prompts, lacking))
        text = report(built, params.prompting.passage_tokens, warnings)
        (told / "report.md").write_text(plain_markdown(text), encoding="utf-8")
    seconds = time.monotonic() - started
    count = built.index.settings.passages
    LOGGER.info("%d passages indexed, %d embedded, in %.1f s", count, built.embedded, seconds)
    for warning in warnings:
        LOGGER.warning("%s", warning)


def choose_reranker(
    params: RerankingParams, paths: Paths, device: torch.device
) -> RerankerSettings | None:
    """Return what the index is to be reranked with, tried on one pair; None where params name
    nothing.

    Raises:
        ConfigError: the manifest is of another model, or the model is no cross-encoder.
        DataError: its score is not finite.
    """
    if params.model is None:
        return None
    manifest = ModelManifest.read_optional(paths.reranker)
    if manifest is None or manifest.source != params.model.source:
        found = "no model" if manifest is None else manifest.source
        raise ConfigError(
            f"params name the reranker {params.model.source}, and {paths.reranker} stands for "
            f"{found}; the index would be searched with another one",
            "run `nightloom run`, which resolves the models of params first",
        )
    chosen = RerankerSettings(
        digest=manifest.digest, source=manifest.source, passages=params.passages
    )
    reranker = Reranker.load(chosen.folder(paths.model_store), device=device)
    reranker.score(["Is this a question?"], ["This is a passage."])
    return chosen


if __name__ == "__main__":
    sys.exit(run_stage("indexing", Params, Paths, run))
