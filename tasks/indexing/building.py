"""An index built from documents."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.indexing.memo import VectorMemo
from tasks.indexing.params import IndexingParams
from tasks.lm.embedding import Embedder
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
    return Index(settings, tuple(passages), lexical, embed(texts, embedder, memo, progress))


def embed(
    texts: Sequence[str], embedder: Embedder, memo: VectorMemo, progress: Progress
) -> NDArray[np.float32]:
    """The unit vectors of texts, (texts, dimension); the embedder sees each new text once."""
    known = {text: memo.get(text) for text in dict.fromkeys(texts)}
    new = [text for text, vector in known.items() if vector is None]
    known.update(zip(new, embedder.encode(new, progress), strict=True))
    vectors = np.empty((len(texts), embedder.dimension), dtype=np.float32)
    for row, text in enumerate(texts):
        vectors[row] = known[text]
    memo.replace(texts, vectors)
    return vectors
