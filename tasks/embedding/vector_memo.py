"""A memo of the vectors that are known already; to read it imports no torch."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tasks.records.text import text_sha256

LOGGER = logging.getLogger(__name__)


class VectorMemo:
    """Vectors by embedder and text hash, in one file below scratch; deleting it costs only time."""

    def __init__(self, folder: Path, embedder: str) -> None:
        """Open the memo of one embedder; a file that can't be read counts as none."""
        self._path = folder / f"vectors-{embedder[:32]}.npz"
        self._vectors: dict[str, NDArray[np.float32]] = {}
        if not self._path.exists():
            return
        try:
            with np.load(self._path, allow_pickle=False) as content:
                keys, vectors = content["keys"], content["vectors"]
                self._vectors = {str(k): row for k, row in zip(keys, vectors, strict=True)}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            LOGGER.warning("%s can't be read (%s): every text is embedded", self._path, error)

    def get(self, text: str) -> NDArray[np.float32] | None:
        """Return the vector of a text, or None."""
        return self._vectors.get(text_sha256(text))

    def replace(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of these texts and no others, atomically."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.array([text_sha256(text) for text in texts], dtype=np.str_)
        temporary = self._path.with_suffix(".partial")
        with temporary.open("wb") as stream:
            np.savez(stream, keys=keys, vectors=vectors)
        temporary.replace(self._path)


def remembered(
    texts: Sequence[str],
    memo: VectorMemo,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Return the vectors of texts, (texts, dimension), which the memo then holds.

    `encode` is called once with the texts that the memo does not know, and not at all where it
    knows every one.
    """
    known = {text: memo.get(text) for text in dict.fromkeys(texts)}
    new = [text for text, vector in known.items() if vector is None]
    known.update(zip(new, encode(new), strict=True) if new else ())
    vectors = np.array([known[text] for text in texts], dtype=np.float32)
    memo.replace(texts, vectors)
    return vectors
