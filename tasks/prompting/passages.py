"""Documents cut into passages that a prompt has room for and the embedder reads whole.

Training and search cut them here, both, so that what is learned from is what is found."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.embedding.embedder import read_text_limit
from tasks.lexical.chunking import Passage, TokenBound, cut_documents
from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.prompting.chat_encoding import encode_texts
from tasks.records.schema import Document
from tasks.stage.params import PromptingParams

_PIECES_HELD = 1_000_000  # some 150 bytes each


def cut_passages(
    documents: Iterable[Document],
    prompting: PromptingParams,
    *,
    base: Path,
    embedder: Path,
    model_store: Path,
) -> list[Passage]:
    """Return the passages of documents, in their order.

    Of each the base reads at most `passage_tokens` tokens, and the embedder as many as it takes.
    `base` and `embedder` are the models' manifests.
    """
    reader = load_tokenizer(ModelManifest.read(base).folder(model_store))
    encoder, most = read_text_limit(embedder, model_store)
    bounds = (
        TokenBound(prompting.passage_tokens, _Counts(lambda texts: encode_texts(reader, texts))),
        TokenBound(most, _Counts(lambda texts: _plain_ids(encoder, texts))),
    )
    return cut_documents(
        documents,
        words=prompting.passage_words,
        overlap_words=prompting.passage_overlap_words,
        bounds=bounds,
    )


def _plain_ids(encoder: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text alone; an encoder's tokenizer may pad and cut by itself."""
    if not texts:
        return []
    ids: list[list[int]] = encoder(
        texts, add_special_tokens=False, padding=False, truncation=False, verbose=False
    ).input_ids
    return ids


class _Counts:
    """How many tokens texts take; the same words come again and again, and are encoded once."""

    def __init__(self, encode: Callable[[list[str]], Sequence[Sequence[int]]]) -> None:
        self._encode = encode
        self._known: dict[str, int] = {}

    def __call__(self, texts: Sequence[str]) -> list[int]:
        if len(self._known) > _PIECES_HELD:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, map(len, self._encode(new)), strict=True))
        return [self._known[text] for text in texts]
