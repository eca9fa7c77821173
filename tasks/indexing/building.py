"""An index built from documents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.embedding.embedder import Embedder
from tasks.embedding.vector_memo import VectorMemo, remembered
from tasks.indexing.params import IndexingParams
from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage, passages_sha256
from tasks.retrieval.dense import DenseIndex, Recall, Vectors, cluster_vectors
from tasks.retrieval.index import FORMAT, Index, IndexSettings, RerankerSettings
from tasks.stage.errors import DataError
from tasks.stage.params import PromptingParams

_QUESTIONS_MEASURED = 256

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuiltIndex:
    """An index, how many texts had to be embedded for it, and the recall of approximate search.

    Of `cut` passages the embedder sees the beginning alone. `recall` is None where dense search is
    exact.
    """

    index: Index
    embedded: int
    cut: int
    recall: Recall | None


def build_index(
    documents: int,
    passages: Sequence[Passage],
    questions: Sequence[str],
    embedder: Embedder,
    indexing: IndexingParams,
    prompting: PromptingParams,
    *,
    reranker: RerankerSettings | None,
    memo: VectorMemo,
    progress: Progress,
) -> BuiltIndex:
    """Return the index of so many documents' passages; no documents give an empty one.

    Only texts that the memo does not know are embedded. With the first of `questions` the recall
    of approximate search is measured.

    Raises:
        DataError: a vector is not finite, or approximate search can't be measured.
    """
    texts = [passage.shown for passage in passages]
    embedded: list[str] = []

    def embed(new: Sequence[str]) -> Vectors:
        embedded.extend(new)
        return _finite(embedder.encode(new, progress), new)

    dense, recall = DenseIndex(np.empty((0, embedder.dimension), np.float32), None), None
    if texts:
        dense = DenseIndex(remembered(texts, memo, embed), None)
        if len(texts) >= indexing.exact_below:
            dense, recall = cluster_vectors(
                dense.vectors,
                embedder.encode(questions[:_QUESTIONS_MEASURED]),
                depth=indexing.candidates,
                least_recall=indexing.least_recall,
            )
    settings = _settings(documents, passages, embedder, indexing, prompting, recall, reranker)
    lexical = LexicalIndex.build(texts) if texts else None
    index = Index(settings, tuple(passages), lexical, dense)
    return BuiltIndex(index, len(embedded), embedder.cut(texts), recall)


def _settings(
    documents: int,
    passages: Sequence[Passage],
    embedder: Embedder,
    indexing: IndexingParams,
    prompting: PromptingParams,
    recall: Recall | None,
    reranker: RerankerSettings | None,
) -> IndexSettings:
    return IndexSettings(
        format=FORMAT,
        embedder=embedder.digest,
        documents=documents,
        passages=len(passages),
        passages_sha256=passages_sha256(passages),
        passage_words=prompting.passage_words,
        passage_overlap_words=prompting.passage_overlap_words,
        candidates=indexing.candidates,
        rank_constant=indexing.rank_constant,
        lexical_weight=indexing.lexical_weight,
        dense_search="exact" if recall is None else "approximate",
        dense_recall=1.0 if recall is None else recall.share,
        reranker=reranker,
    )


def _finite(vectors: Vectors, texts: Sequence[str]) -> Vectors:
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise DataError(
            f"the embedder gives {len(broken)} of {len(texts)} texts a vector that is not finite, "
            f"the first {texts[broken[0]][:60]!r}; such a passage could never be found",
            "name another embedder in params/models.yaml",
        )
    return vectors
