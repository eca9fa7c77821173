"""The mean meaning of an accepted set: vectors of rows chosen by hashed id."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.lm.conversion import ModelManifest
from tasks.lm.memo import VectorMemo, remembered
from tasks.stage.params import ComputeParams
from tasks.validation.profile import Embedding, mean_vector


def embed_set(
    texts: Sequence[str], manifest: Path, store: Path, compute: ComputeParams, memos: Path
) -> Embedding | None:
    """The mean of the texts' unit vectors, None where there are no texts.

    The embedder is loaded only where the memo does not know every text: torch costs seconds.
    """
    if not texts:
        return None
    digest = ModelManifest.read(manifest).digest

    def encode(new: Sequence[str]) -> NDArray[np.float32]:
        from tasks.lm.embedding import Embedder
        from tasks.lm.models import prepare_device

        embedder = Embedder.load(manifest, store, device=prepare_device(compute))
        return embedder.encode(new)

    vectors = remembered(texts, VectorMemo(memos, digest), encode)
    return Embedding(embedder=digest, rows=len(texts), mean=mean_vector(vectors))
