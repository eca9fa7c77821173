"""An index built from documents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tasks.embedding.embedder import Embedder
from tasks.embedding.vector_memo import VectorMemo, remembered
from tasks.indexing.params import IndexingParams
from tasks.indexing.weight_choice import (
    WeightChoice,
    asked_records,
    choose_weights,
    fixed_weights,
)
from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage, passages_sha256
from tasks.records.schema import Record
from tasks.retrieval.dense import DenseIndex, Recall, Vectors, cluster_vectors
from tasks.retrieval.index import FORMAT, Index, IndexSettings, RerankerSettings
from tasks.stage.errors import DataError
from tasks.stage.params import PromptingParams

_QUESTIONS_MEASURED = 256

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Encoder:
    """An embedder, and the folder of the memos of what it has embedded before, if it keeps any."""

    embedder: Embedder
    memos: Path | None

    def passages(self, texts: Sequence[str], progress: Progress) -> tuple[Vectors, int]:
        """Return the vectors of passages, and how many of the texts were not known.

        Raises:
            DataError: a vector is not finite.
        """
        embedded: list[str] = []

        def embed(new: Sequence[str]) -> Vectors:
            embedded.extend(new)
            return _finite(self.embedder.encode(new, progress, purpose="passage"), new)

        return self._remembered(texts, self.memos, embed), len(embedded)

    def questions(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of questions."""
        folder = None if self.memos is None else self.memos / "questions"
        return self._remembered(texts, folder, partial(self.embedder.encode, purpose="query"))

    def _remembered(
        self, texts: Sequence[str], folder: Path | None, encode: Callable[[Sequence[str]], Vectors]
    ) -> Vectors:
        if folder is None:
            return encode(texts)
        return remembered(texts, VectorMemo(folder, self.embedder.digest), encode)


@dataclass(frozen=True)
class BuiltIndex:
    """An index, how its halves were weighted, and how many texts had to be embedded for it.

    Of `cut` passages the embedder sees the beginning alone. `recall` is None where dense search is
    exact, or left out.
    """

    index: Index
    choice: WeightChoice
    embedded: int
    cut: int
    recall: Recall | None


def build_index(
    documents: int,
    passages: Sequence[Passage],
    validation: Sequence[Record],
    encoder: Encoder | None,
    indexing: IndexingParams,
    prompting: PromptingParams,
    *,
    embedder: str,
    reranker: RerankerSettings | None,
    progress: Progress,
) -> BuiltIndex:
    """Return the index of so many documents' passages; no documents give an empty one.

    Only texts that the memos do not know are embedded, and none without an encoder; `embedder` is
    the digest of the one that params name. With the questions of validation records the weights are
    chosen, and the recall of approximate search is measured.

    Raises:
        DataError: a vector is not finite, or approximate search can't be measured.
    """
    texts = [passage.shown for passage in passages]
    dense, embedded, cut = _none(encoder), 0, 0
    if texts and encoder is not None:
        vectors, embedded = encoder.passages(texts, progress)
        dense, cut = DenseIndex(vectors, None), encoder.embedder.cut(texts)
    usual = Index(
        _settings(documents, passages, embedder, indexing, prompting, reranker),
        tuple(passages),
        LexicalIndex.build(texts) if texts else None,
        dense,
    )
    choice = _choose(usual, validation, encoder, indexing)
    settings = usual.settings.model_copy(
        update={
            "lexical_weight": choice.weights.lexical,
            "dense_weight": choice.weights.dense,
            "weights_measured": choice.summary(),
        }
    )
    index, recall = replace(usual, settings=settings), None
    if not settings.needs_embedder:
        return BuiltIndex(replace(index, dense=_none(encoder)), choice, embedded, cut, None)
    if len(texts) >= indexing.exact_below:
        index, recall = _approximate(index, validation, encoder, indexing)
    return BuiltIndex(index, choice, embedded, cut, recall)


def _none(encoder: Encoder | None) -> DenseIndex:
    dimension = 0 if encoder is None else encoder.embedder.dimension
    return DenseIndex(np.empty((0, dimension), np.float32), None)


def _choose(
    index: Index, validation: Sequence[Record], encoder: Encoder | None, indexing: IndexingParams
) -> WeightChoice:
    if encoder is None:
        return fixed_weights(indexing)
    records = asked_records(index, validation, indexing.choice)
    if not records:
        return choose_weights(index, [], [], indexing)
    questions = [record.question for record in records]
    found = index.halves(questions, encoder.questions(questions), indexing.candidates)
    return choose_weights(index, records, found, indexing)


def _approximate(
    index: Index, validation: Sequence[Record], encoder: Encoder | None, indexing: IndexingParams
) -> tuple[Index, Recall]:
    assert encoder is not None  # an index whose dense half counts has vectors
    questions = [record.question for record in validation[:_QUESTIONS_MEASURED]]
    dense, recall = cluster_vectors(
        index.dense.vectors,
        encoder.embedder.encode(questions, purpose="query"),
        depth=indexing.candidates,
        least_recall=indexing.least_recall,
    )
    told = {"dense_search": "approximate", "dense_recall": recall.share}
    return replace(index, settings=index.settings.model_copy(update=told), dense=dense), recall


def _settings(
    documents: int,
    passages: Sequence[Passage],
    embedder: str,
    indexing: IndexingParams,
    prompting: PromptingParams,
    reranker: RerankerSettings | None,
) -> IndexSettings:
    return IndexSettings(
        format=FORMAT,
        embedder=embedder,
        documents=documents,
        passages=len(passages),
        passages_sha256=passages_sha256(passages),
        passage_words=prompting.passage_words,
        passage_overlap_words=prompting.passage_overlap_words,
        candidates=indexing.candidates,
        rank_constant=indexing.rank_constant,
        lexical_weight=indexing.lexical_weight,
        dense_search="exact",
        dense_recall=1.0,
        dense_weight=indexing.dense_weight,
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
