"""An index built from documents."""

from collections.abc import Callable, Sequence

import numpy as np

from tasks.indexing.params import IndexingParams
from tasks.lm.embedding import Embedder
from tasks.lm.memo import VectorMemo, remembered
from tasks.records.lexical import LexicalIndex
from tasks.records.passages import cut_documents
from tasks.records.record import Document
from tasks.serving.retrieval import Index, IndexSettings
from tasks.stage.params import PromptingParams

Progress = Callable[[int, int], None]


def build_index(
    documents: Sequence[Document],
    embedder: Embedder,
    indexing: IndexingParams,
    prompting: PromptingParams,
    *,
    memo: VectorMemo,
    progress: Progress,
) -> Index:
    """The index of the documents' passages; no documents give an empty one."""
    passages = cut_documents(
        documents,
        words=prompting.passage_words,
        overlap_words=prompting.passage_overlap_words,
    )
    texts = [passage.shown for passage in passages]
    settings = IndexSettings(
        embedder=embedder.digest,
        documents=len(documents),
        passages=len(passages),
        passage_words=prompting.passage_words,
        passage_overlap_words=prompting.passage_overlap_words,
        candidates=indexing.candidates,
        rank_constant=indexing.rank_constant,
        lexical_weight=indexing.lexical_weight,
    )
    lexical = LexicalIndex.build(texts) if texts else None
    vectors = np.empty((0, embedder.dimension), dtype=np.float32)
    if texts:
        vectors = remembered(texts, memo, lambda new: embedder.encode(new, progress))
    return Index(settings, tuple(passages), lexical, vectors)
