"""Rows that are nearly the same: MinHash bands propose pairs, the exact Jaccard index decides.

MinHash is rensa's, in Rust; the bands are sorted arrays, because an index of buckets in memory
takes more than all the rest together at a million rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from tasks.curation.shingling import mixed, shingle_hashes

# Of the pairs right at the threshold, so many are proposed at least.
_RECALL = 0.9999
# Rows hashed in one go: few enough that everything stays in the processor's cache.
_BATCH = 500
# A pair whose estimated likeness is this many standard errors below the threshold isn't measured.
_ERRORS = 5.0
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def band_rows(similarity: float, permutations: int) -> int:
    """Return the values of MinHash that make a band: as many as still propose nearly every true
    pair.
    """
    for rows in range(permutations, 0, -1):
        if permutations % rows == 0:
            missed = (1 - similarity**rows) ** (permutations // rows)
            if missed <= 1 - _RECALL:
                return rows
    return 1


@dataclass(frozen=True)
class Sketches:
    """Rows in a few hundred bytes each: `bands` (rows, bands) and `digests` (rows, permutations).

    Two rows share each byte of a digest with a probability of their likeness (and 1/256).
    """

    bands: NDArray[np.uint32]
    digests: NDArray[np.uint8]

    def take(self, order: NDArray[np.int64]) -> "Sketches":
        """Return the sketches of some rows, in that order."""
        return Sketches(self.bands[order], self.digests[order])


class Sketcher:
    """Makes the sketches of texts as they come."""

    def __init__(self, *, characters: int, permutations: int, similarity: float, seed: int) -> None:
        self._characters = characters
        self._permutations = permutations
        self._rows = band_rows(similarity, permutations)
        self._seed = seed
        self._bands: list[NDArray[np.uint32]] = []
        self._digests: list[NDArray[np.uint8]] = []
        self._waiting: list[str] = []

    def add(self, text: str) -> None:
        """Take one more text."""
        self._waiting.append(text)
        if len(self._waiting) == _BATCH:
            self._flush()

    def finish(self) -> Sketches:
        """Return the sketches of all texts, in the order in which they came."""
        self._flush()
        bands = np.concatenate(self._bands or [np.empty((0, 1), np.uint32)])
        self._bands.clear()
        digests = np.concatenate(self._digests or [np.empty((0, 1), np.uint8)])
        self._digests.clear()
        return Sketches(bands, digests)

    def _flush(self) -> None:
        if not self._waiting:
            return
        hashes, starts = shingle_hashes(self._waiting, self._characters)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, starts.astype(np.uint64), self._permutations, self._seed
        )
        digests = np.array(matrix.to_rows(), np.uint32)
        keys = np.zeros((len(digests), self._permutations // self._rows), np.uint64)
        for place in range(self._rows):
            keys *= _MULTIPLIER
            keys += digests[:, place :: self._rows]
        self._bands.append(mixed(keys).astype(np.uint32))
        self._digests.append(digests.astype(np.uint8))
        self._waiting.clear()


class Buckets:
    """For each row, the earlier rows that share a band with it."""

    def __init__(self, sketches: Sketches) -> None:
        self._digests = sketches.digests
        count, bands = sketches.bands.shape
        self._members = np.empty((bands, count), np.int32)
        rows: list[NDArray[np.int32]] = []
        firsts: list[NDArray[np.int64]] = []
        ends: list[NDArray[np.int64]] = []
        for band in range(bands):
            order = np.argsort(sketches.bands[:, band], kind="stable").astype(np.int32)
            keys = sketches.bands[order, band]
            places = np.arange(count, dtype=np.int32)
            begins = np.ones(count, bool)
            begins[1:] = keys[1:] != keys[:-1]
            first = np.maximum.accumulate(np.where(begins, places, 0))
            later = np.flatnonzero(~begins)
            self._members[band] = order
            rows.append(order[later])
            firsts.append(first[later] + np.int64(band) * count)
            ends.append(later + np.int64(band) * count)
        self._index(np.concatenate(rows), np.concatenate(firsts), np.concatenate(ends), count)

    def _index(
        self,
        rows: NDArray[np.int32],
        firsts: NDArray[np.int64],
        ends: NDArray[np.int64],
        count: int,
    ) -> None:
        """Keep, row after row, the stretches of members that stand before it in its buckets."""
        order = np.argsort(rows, kind="stable")
        self._firsts, self._ends = firsts[order], ends[order]
        self._starts = np.searchsorted(rows[order], np.arange(count + 1))
        self._flat = self._members.reshape(-1)

    @property
    def followers(self) -> NDArray[np.int64]:
        """Return the rows with at least one earlier row in a bucket, in order."""
        return np.flatnonzero(np.diff(self._starts))

    def earlier(self, row: int) -> NDArray[np.int32]:
        """Return the earlier rows that share a band with a row, in order."""
        stretches = slice(self._starts[row], self._starts[row + 1])
        firsts = self._firsts[stretches]
        lengths = self._ends[stretches] - firsts
        before = np.cumsum(lengths) - lengths
        places = np.repeat(firsts - before, lengths) + np.arange(lengths.sum())
        return np.unique(self._flat[places])

    def likely(
        self, row: int, others: NDArray[np.int32], similarity: float | NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """Return those of the other rows that may be at least so alike to a row, by digest."""
        permutations = self._digests.shape[1]
        alike = (self._digests[others] == self._digests[row]).mean(axis=1)
        error = np.sqrt(similarity * (1 - np.minimum(similarity, 1.0)) / permutations)
        kept: NDArray[np.int32] = others[alike >= similarity - _ERRORS * error]
        return kept


def sketch_all(
    texts: Sequence[str], *, characters: int, permutations: int, similarity: float, seed: int
) -> Sketches:
    """Return the sketches of texts, in their order."""
    sketcher = Sketcher(
        characters=characters, permutations=permutations, similarity=similarity, seed=seed
    )
    for text in texts:
        sketcher.add(text)
    return sketcher.finish()
