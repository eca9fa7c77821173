"""Cut documents into passages and index them for lexical and dense search."""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.embedding.embedder import Embedder
from tasks.embedding.vector_memo import VectorMemo
from tasks.indexing.building import BuiltIndex, build_index
from tasks.indexing.params import Params
from tasks.models.loading import prepare_device
from tasks.models.store import ModelManifest
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
    embedder: Path
    reranker: Path
    model_store: Path
    scratch: Path
    index: Path = output()
    indexing_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write the index and its report."""
    started = time.monotonic()
    device = prepare_device(params.compute)
    curated = verified(paths.curated)
    embedder = Embedder.load(paths.embedder, paths.model_store, device=device)
    documents = read_documents(curated / "documents.jsonl")
    built = build_index(
        len(documents),
        cut_passages(
            documents,
            params.prompting,
            base=paths.base,
            embedder=paths.embedder,
            model_store=paths.model_store,
        ),
        [record.question for record in read_records(curated / "validation.jsonl")],
        embedder,
        params.indexing,
        params.prompting,
        reranker=choose_reranker(params.reranking, paths, device),
        memo=VectorMemo(paths.scratch / "memos", embedder.digest),
        progress=Curves(paths.scratch).progress,
    )
    with output_folders(paths.index, paths.indexing_report) as (folder, report):
        built.index.save(folder)
        write_metrics(report, _metrics(built))
        text = _report(built, params.prompting.passage_tokens)
        (report / "report.md").write_text(plain_markdown(text), encoding="utf-8")
    seconds = time.monotonic() - started
    count = built.index.settings.passages
    LOGGER.info("%d passages indexed, %d embedded, in %.1f s", count, built.embedded, seconds)
    if built.cut:
        LOGGER.warning(
            "the embedder sees only the beginning of %d passages (%d tokens): shorten the titles "
            "of their documents",
            built.cut,
            embedder.max_tokens,
        )


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


def _metrics(built: BuiltIndex) -> dict[str, object]:
    settings = built.index.settings
    return {
        "documents": settings.documents,
        "passages": settings.passages,
        "passages_cut": built.cut,
        "dimension": built.index.dense.dimension,
        "dense_search": settings.dense_search,
        "dense_recall": settings.dense_recall,
        "reranked_passages": 0 if settings.reranker is None else settings.reranker.passages,
    }


def _report(built: BuiltIndex, tokens: int) -> str:
    settings, recall = built.index.settings, built.recall
    if not settings.passages:
        return "# Index\n\nThere are no documents: questions are answered without passages.\n"
    dense = "The dense search is exact."
    if recall is not None:
        dense = (
            f"The dense search is approximate: a question looks into {recall.probes} of "
            f"{recall.clusters} clusters and finds {recall.share:.1%} of the {recall.depth} "
            f"passages that exact search finds (measured on {recall.questions} questions)."
        )
    if settings.reranker is not None:
        dense += (
            f" The best {settings.reranker.passages} are read with the question by "
            f"`{settings.reranker.source}`, whose order counts."
        )
    return (
        f"# Index\n\n{settings.documents} documents make {settings.passages} passages of at most "
        f"{settings.passage_words} words and {tokens} tokens of the base, neighbours sharing at "
        f"most {settings.passage_overlap_words} words. They are searched by BM25 and by the cosine "
        f"of {built.index.dense.dimension}-dimensional vectors; the best {settings.candidates} of "
        f"each are fused by reciprocal rank (k = {settings.rank_constant}, BM25 weighted "
        f"{settings.lexical_weight:g}). {dense}{_cut(built)}\n"
    )


def _cut(built: BuiltIndex) -> str:
    if not built.cut:
        return ""
    return (
        f" **The embedder sees the beginning alone of {built.cut} passages**, which have more "
        "tokens than it takes, since their documents' titles take half of that: their ends are "
        "found by BM25 only. Shorten these titles."
    )


if __name__ == "__main__":
    sys.exit(run_stage("indexing", Params, Paths, run))
