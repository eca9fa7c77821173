"""An index of the tiny models, by the stage's own code."""

from pathlib import Path
from typing import Any

from tasks.indexing.__main__ import Paths, run
from tasks.indexing.params import Params
from tasks.retrieval.index import Index


def index_into(
    root: Path,
    params: Params,
    tiny: Any,
    curated: Path | None = None,
    retriever: Path | None = None,
) -> Index:
    """Run the stage on the tiny models, with its outs below a folder; return the index."""
    paths = Paths(
        curated=curated or tiny.curated,
        base=tiny.base,
        retriever=retriever or tiny.retriever,
        reranker=tiny.reranker,
        model_store=tiny.store,
        scratch=root / "scratch",
        index=root / "index",
        indexing_report=root / "report",
    )
    run(params, paths)
    return Index.load(root / "index")
