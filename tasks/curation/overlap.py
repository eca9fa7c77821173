"""All texts that are alike to one of a set, found exactly.

Two sets with a Jaccard index of at least t share an element among the rarest of each, however the
elements are ordered, as long as it is one order: the first n - ceil(t n) + 1 of n (the prefix
filter; Chaudhuri et al. 2006, Bayardo et al. 2007). So only those are indexed and looked up, and
each pair that they bring together is measured, on hashes of 64 bits.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tasks.curation.shingling import Hashes, shingle_hashes

# So that 0.8 * 5 asks for 4 shared elements and not, by rounding, for 5.
_ROUNDING = 1e-9


class SimilarSets:
    """Texts, to be asked for those that another text is alike to."""

    def __init__(self, texts: Sequence[str], characters: int, similarity: float) -> None:
        self._characters = characters
        self._similarity = similarity
        sets = [part for start in range(0, len(texts), 500)
                for part in self._sets(texts[start : start + 500])]  # fmt: skip
        self._members = np.concatenate(sets) if sets else np.empty(0, np.uint64)
        self._sizes = np.array([len(item) for item in sets], np.int64)
        self._begins = np.cumsum(self._sizes) - self._sizes
        self._known, self._counts = np.unique(self._members, return_counts=True)
        prefixes = [self._prefix(item) for item in sets]
        elements = np.concatenate(prefixes) if prefixes else np.empty(0, np.uint64)
        rows = np.repeat(np.arange(len(prefixes)), [len(item) for item in prefixes])
        order = np.argsort(elements, kind="stable")
        self._elements, self._rows = elements[order], rows[order].astype(np.int32)

    def alike(self, texts: Sequence[str]) -> list[list[int]]:
        """For each text the places of those alike enough to it, the most alike first."""
        if not len(self._sizes):
            return [[] for _ in texts]
        return [self._alike(elements) for elements in self._sets(texts)]

    def _alike(self, elements: Hashes) -> list[int]:
        present = self._frequencies(elements) > 0
        # At least so many of the text's own elements stand in the other one too.
        if np.count_nonzero(present) < self._least(len(elements)):
            return []
        prefix = self._prefix(elements)
        firsts = np.searchsorted(self._elements, prefix, "left")
        lasts = np.searchsorted(self._elements, prefix, "right")
        stretches = [self._rows[a:b] for a, b in zip(firsts, lasts, strict=True) if b > a]
        if not stretches:
            return []
        rows = np.unique(np.concatenate(stretches))
        alike = self._likeness(rows, elements)
        # Stable, so that of equally near ones the first comes first.
        order = np.argsort(-alike, kind="stable")
        found: list[int] = rows[order[alike[order] >= self._similarity]].tolist()
        return found

    def _likeness(self, rows: NDArray[np.int32], elements: Hashes) -> NDArray[np.float64]:
        """The Jaccard index of each of the rows with a set of sorted elements."""
        sizes = self._sizes[rows]
        starts = np.cumsum(sizes) - sizes
        places = np.repeat(self._begins[rows] - starts, sizes) + np.arange(sizes.sum())
        members = self._members[places]
        found = elements[np.minimum(np.searchsorted(elements, members), len(elements) - 1)]
        shared = np.add.reduceat(found == members, starts, dtype=np.int64)
        return shared / (sizes + len(elements) - shared)

    def _sets(self, texts: Sequence[str]) -> list[Hashes]:
        hashes, starts = shingle_hashes(texts, self._characters)
        return [np.unique(hashes[a:b]) for a, b in pairwise(starts)]

    def _frequencies(self, elements: Hashes) -> NDArray[np.int64]:
        """In how many of the indexed texts each element stands."""
        places = np.minimum(np.searchsorted(self._known, elements), len(self._known) - 1)
        return np.where(self._known[places] == elements, self._counts[places], 0)

    def _prefix(self, elements: Hashes) -> Hashes:
        """The rarest elements of a text, enough of them to meet every text alike to it."""
        order = np.lexsort((elements, self._frequencies(elements)))
        return elements[order[: len(elements) - self._least(len(elements)) + 1]]

    def _least(self, size: int) -> int:
        return math.ceil(self._similarity * size - _ROUNDING)
