"""A memo of text vectors, so that a night embeds only passages it has not seen."""

import logging
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tasks.records.hashing import text_sha256

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
            LOGGER.warning("%s can't be read (%s): every passage is embedded", self._path, error)

    def get(self, text: str) -> NDArray[np.float32] | None:
        """The vector of a text, or None."""
        return self._vectors.get(text_sha256(text))

    def replace(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of these texts and no others, atomically."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.array([text_sha256(text) for text in texts], dtype=np.str_)
        temporary = self._path.with_suffix(".partial")
        with temporary.open("wb") as stream:
            np.savez(stream, keys=keys, vectors=vectors)
        temporary.replace(self._path)
