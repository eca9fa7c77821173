"""Dense search: exact by one matrix product, approximate over clusters where passages are many."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.lexical.bm25 import Positions, best_positions
from tasks.stage.errors import DataError

if TYPE_CHECKING:
    import faiss

Vectors = NDArray[np.float32]

_VECTORS_FILE = "vectors.npy"
_CLUSTERS_FILE = "clusters.faiss"
_QUESTIONS_AT_ONCE = 64
_CLUSTER_SEED = 1234
_ROUNDING = 1e-5  # by which two libraries' products of unit vectors may differ


@dataclass(frozen=True)
class DenseIndex:
    """Unit vectors, (passages, dimension), searched by cosine.

    `clusters` is None where the search is exact. Else it holds the vectors a second time, by
    cluster, and a question looks into those whose centres are nearest to it.
    """

    vectors: Vectors
    clusters: "faiss.Index | None"

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        return int(self.vectors.shape[1])

    def save(self, folder: Path) -> None:
        """Write the index into a folder."""
        np.save(folder / _VECTORS_FILE, self.vectors, allow_pickle=False)
        if self.clusters is not None:
            import faiss

            faiss.write_index(self.clusters, str(folder / _CLUSTERS_FILE))

    @classmethod
    def load(cls, folder: Path, *, approximate: bool) -> "DenseIndex":
        """Return the index that `save` wrote; an approximate one leaves `vectors` on the disk."""
        if not approximate:
            return cls(np.load(folder / _VECTORS_FILE, allow_pickle=False), None)
        import faiss

        vectors = np.load(folder / _VECTORS_FILE, mmap_mode="r", allow_pickle=False)
        return cls(vectors, faiss.read_index(str(folder / _CLUSTERS_FILE)))

    def search(
        self, questions: Vectors, count: int, among: Positions | None = None
    ) -> list[Positions]:
        """Return for each question the positions of at most `count` nearest vectors, best first.

        Where `among` is given (positions in ascending order), only these are searched, and exactly.
        """
        if among is not None:
            return [among[best] for best in _exact(questions, self.vectors[among], count)]
        if self.clusters is None:
            return _exact(questions, self.vectors, count)
        _, found = self.clusters.search(questions, min(count, len(self.vectors)))
        return [row[row >= 0].astype(np.int64) for row in found]


def _exact(questions: Vectors, vectors: Vectors, count: int) -> list[Positions]:
    blocks = range(0, len(questions), _QUESTIONS_AT_ONCE)
    return [
        best
        for at in blocks
        for best in best_positions(questions[at : at + _QUESTIONS_AT_ONCE] @ vectors.T, count)
    ]


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of exact search's results that approximate search finds, and how it was measured.

    `probes` of `clusters` are looked into; `depth` results of each of `questions` were compared.
    """

    share: float
    depth: int
    questions: int
    probes: int
    clusters: int


def cluster_vectors(
    vectors: Vectors, questions: Vectors, *, depth: int, least_recall: float
) -> tuple[DenseIndex, Recall]:
    """Return an approximate index that finds at least `least_recall` of what exact search finds.

    The number of clusters that a question looks into doubles from 1 until the recall of its best
    `depth` results, a mean over the questions, is reached; with every cluster it is 1. A result
    whose score is the last exact one's counts as found: equal scores have no order.

    Raises:
        DataError: there are no questions to measure with.
    """
    if not len(questions):
        raise DataError(
            "there are no questions to measure the approximate search with; its recall must be "
            "known, or passages could go missing unseen",
            "give the validation split records, or raise indexing.exact_below",
        )
    clusters: Any = _clusters(vectors)
    index = DenseIndex(vectors, clusters)
    exact = _exact(questions, vectors, depth)
    probes, share = 0, 0.0
    while share < least_recall and probes < clusters.nlist:
        probes = min(max(2 * probes, 1), clusters.nlist)
        clusters.nprobe = probes
        share = _recall(questions, vectors, index.search(questions, depth), exact)
    return index, Recall(share, depth, len(questions), probes, clusters.nlist)


def _recall(
    questions: Vectors, vectors: Vectors, found: list[Positions], exact: list[Positions]
) -> float:
    shares = []
    for question, some, best in zip(questions, found, exact, strict=True):
        least = vectors[best[-1]] @ question - _ROUNDING
        shares.append(np.sum(vectors[some] @ question >= least) / len(best))
    return float(np.mean(shares))


def _clusters(vectors: Vectors) -> Any:
    import faiss

    dimension = vectors.shape[1]
    count = min(int(2 * len(vectors) ** 0.5), len(vectors))
    metric = faiss.METRIC_INNER_PRODUCT
    centres = faiss.IndexFlatIP(dimension)
    clusters = faiss.IndexIVFFlat(centres, dimension, count, metric)
    clusters.cp.niter = 10
    clusters.cp.max_points_per_centroid = 64  # enough for the centres; all of them cost minutes
    clusters.cp.min_points_per_centroid = 1
    clusters.cp.seed = _CLUSTER_SEED
    clusters.train(vectors)
    clusters.add(vectors)
    return clusters
