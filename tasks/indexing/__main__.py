"""Cut documents into passages and index them for lexical and dense search."""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.indexing.building import build_index
from tasks.indexing.params import Params
from tasks.lm.embedding import Embedder
from tasks.lm.memo import VectorMemo
from tasks.lm.models import prepare_device
from tasks.records.files import read_documents
from tasks.serving.retrieval import IndexSettings
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """What indexing reads and writes."""

    curated: Path
    embedder: Path
    model_store: Path
    scratch: Path
    index: Path = output()
    indexing_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write the index and its report."""
    started = time.monotonic()
    device = prepare_device(params.compute)
    documents = read_documents(verified(paths.curated) / "documents.jsonl")
    embedder = Embedder.load(paths.embedder, paths.model_store, device=device)
    index = build_index(
        documents,
        embedder,
        params.indexing,
        params.prompting,
        memo=VectorMemo(paths.scratch / "memos", embedder.digest),
        progress=Curves(paths.scratch).progress,
    )
    with output_folders(paths.index, paths.indexing_report) as (folder, report):
        index.save(folder)
        settings = index.settings
        counts = {"documents": settings.documents, "passages": settings.passages}
        write_metrics(report, counts | {"dimension": embedder.dimension})
        (report / "report.md").write_text(_report(settings, embedder), encoding="utf-8")
    LOGGER.info("%d passages indexed in %.1f s", len(index.passages), time.monotonic() - started)


def _report(settings: IndexSettings, embedder: Embedder) -> str:
    if not settings.passages:
        return "# Index\n\nThere are no documents: questions are answered without passages.\n"
    return (
        f"# Index\n\n{settings.documents} documents make {settings.passages} passages of at most "
        f"{settings.passage_words} words, neighbours sharing {settings.passage_overlap_words}. "
        f"They are searched by BM25 and by the cosine of {embedder.dimension}-dimensional vectors; "
        f"the best {settings.candidates} of each are fused by reciprocal rank "
        f"(k = {settings.rank_constant}, BM25 weighted {settings.lexical_weight:g}).\n"
    )


if __name__ == "__main__":
    sys.exit(run_stage("indexing", Params, Paths, run))
