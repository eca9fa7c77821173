"""The texts of a set that another text is alike to, found exactly, for many texts at once.

Two sets with a Jaccard index of at least t share t of the elements of each. So, in whatever order
the elements are, as long as it is one, they share k of the first n - ceil(t n) + k of the n
elements of each (the prefix filter; Chaudhuri et al. 2006, Bayardo et al. 2007; with k above 1
Wang et al. 2012). Here the rarest come first. Pairs that share so many are measured.

An element is a number of 56 bits: how many texts have it, then 40 bits of its hash. Two elements of
a pair are taken for one by chance once in 2^40 times. How many have it is counted in a table by the
hash's last bits, so that a search costs the same in a large set as in a small one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.curation.shingling import Hashes, distinct_hashes, shingle_hashes

# So that 0.8 * 5 asks for 4 shared elements and not, by rounding, for 5.
_ROUNDING = 1e-9
# Elements of the prefixes that a pair must share, where that costs no long lists to look through.
_SHARED = 4
_LIST_FACTOR, _LIST_LEAST = 2, 64
_BATCH = 250  # texts; a text's place takes the 8 bits above an element
_HASH_BITS, _ELEMENT_BITS, _ALL_BITS = np.uint64(40), np.uint64(56), np.uint64(64)
_ELEMENT = np.uint64((1 << 56) - 1)
_MOST_COUNTED = (1 << 16) - 1
_SLOTS_AN_ELEMENT = 4


class SimilarSets:
    """Texts, to be asked for those that another text is alike to."""

    def __init__(self, texts: Sequence[str], characters: int, similarity: float) -> None:
        self._characters = characters
        self._similarity = similarity
        starts = range(0, len(texts), _BATCH)
        parts = [distinct_hashes(texts[at : at + _BATCH], characters) for at in starts]
        self._count([hashes for hashes, _ in parts])
        sets = [self._elements_of(hashes, ends) for hashes, ends in parts]
        self._members = np.concatenate([*sets, np.empty(0, np.uint64)])
        self._sizes = np.concatenate(
            [np.diff(ends, prepend=0) for _, ends in parts] or [np.empty(0, np.int64)]
        )
        self._begins = np.cumsum(self._sizes) - self._sizes
        place = np.arange(len(self._members)) - np.repeat(self._begins, self._sizes)
        least = self._least(self._sizes)
        chosen = place < np.repeat(self._sizes - least + _SHARED, self._sizes)
        elements = self._members[chosen]
        rows = np.repeat(np.arange(len(texts), dtype=np.int32), self._sizes)[chosen]
        order = np.argsort(elements, kind="stable")
        self._elements, self._rows = elements[order], rows[order]

    def alike(self, texts: Sequence[str]) -> list[list[int]]:
        """Return for each text the places of those alike to it, the most alike first."""
        if not len(self._sizes):
            return [[] for _ in texts]
        return [found for start in range(0, len(texts), _BATCH)
                for found in self._alike(texts[start : start + _BATCH])]  # fmt: skip

    def _alike(self, texts: Sequence[str]) -> list[list[int]]:
        hashes, starts = shingle_hashes(texts, self._characters)
        codes = self._codes(hashes, np.diff(starts))
        codes = codes[np.append(True, codes[1:] != codes[:-1])]
        sizes = np.bincount((codes >> _ELEMENT_BITS).astype(np.int64), minlength=len(texts))
        elements = codes & _ELEMENT
        ends = np.cumsum(sizes)
        found: list[list[int]] = [[] for _ in texts]
        for text, others in self._likely(elements, sizes):
            own = elements[ends[text] - sizes[text] : ends[text]]
            alike = self._likeness(others, own)
            # Stable, so that of equally near ones the first comes first.
            order = np.argsort(-alike, kind="stable")
            found[text] = others[order[alike[order] >= self._similarity]].tolist()
        return found

    def _likely(
        self, elements: Hashes, sizes: NDArray[np.int64]
    ) -> list[tuple[int, NDArray[np.int64]]]:
        """Return the texts that may be alike to one here, and the places of those, in order."""
        least = self._least(sizes)
        begins = np.cumsum(sizes) - sizes
        shared = self._shared(elements, begins, sizes, least)
        place = np.arange(len(elements)) - np.repeat(begins, sizes)
        chosen = place < np.repeat(sizes - least + shared, sizes)
        chosen &= elements >> _HASH_BITS > 0
        prefix, texts = elements[chosen], np.repeat(np.arange(len(sizes)), sizes)[chosen]
        firsts = np.searchsorted(self._elements, prefix, "left")
        lengths = np.searchsorted(self._elements, prefix, "right") - firsts
        before = np.cumsum(lengths) - lengths
        places = np.repeat(firsts - before, lengths) + np.arange(lengths.sum())
        pairs = np.repeat(texts, lengths) * len(self._sizes) + self._rows[places]
        pairs, common = np.unique(pairs, return_counts=True)
        text, other = np.divmod(pairs, len(self._sizes))
        likely = common >= np.minimum(shared, least)[text]
        text, other = text[likely], other[likely]
        cuts = np.flatnonzero(np.diff(text)) + 1
        return [(int(text[at]), part) for at, part in
                zip((0, *cuts), np.split(other, cuts), strict=True) if len(part)]  # fmt: skip

    def _shared(
        self,
        elements: Hashes,
        begins: NDArray[np.int64],
        sizes: NDArray[np.int64],
        least: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return for each text how many elements of the prefixes are asked for: one, or more where
        that makes the lists to look through not much longer.
        """
        listed = np.cumsum((elements >> _HASH_BITS).astype(np.int64))
        listed = np.concatenate([np.zeros(1, np.int64), listed])
        short, long = (
            listed[begins + np.minimum(sizes - least + count, sizes)] - listed[begins]
            for count in (1, _SHARED)
        )
        return np.where(long <= _LIST_FACTOR * short + _LIST_LEAST, _SHARED, 1)

    def _likeness(self, rows: NDArray[np.int64], elements: Hashes) -> NDArray[np.float64]:
        """Return the Jaccard index of each of the rows with a set of sorted elements."""
        sizes = self._sizes[rows]
        starts = np.cumsum(sizes) - sizes
        places = np.repeat(self._begins[rows] - starts, sizes) + np.arange(sizes.sum())
        members = self._members[places]
        found = elements[np.minimum(np.searchsorted(elements, members), len(elements) - 1)]
        shared = np.add.reduceat(found == members, starts, dtype=np.int64)
        index: NDArray[np.float64] = shared / (sizes + len(elements) - shared)
        return index

    def _count(self, sets: Sequence[Hashes]) -> None:
        """Count in how many of the texts each element stands, by the last bits of its hash."""
        slots = 1 << (_SLOTS_AN_ELEMENT * sum(map(len, sets))).bit_length()
        self._mask = np.uint64(slots - 1)
        counts = np.zeros(slots, np.uint32)
        for hashes in sets:
            np.add.at(counts, hashes & self._mask, 1)
        self._counts = np.minimum(counts, _MOST_COUNTED).astype(np.uint16)

    def _elements_of(self, hashes: Hashes, ends: NDArray[np.int64]) -> Hashes:
        return self._codes(hashes, np.diff(ends, prepend=0)) & _ELEMENT

    def _codes(self, hashes: Hashes, lengths: NDArray[np.int64]) -> Hashes:
        """Return the elements with the places of their texts above them, sorted: text after text,
        each one's rarest first.
        """
        texts = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
        counts = self._counts[hashes & self._mask].astype(np.uint64)
        codes: Hashes = (texts << _ELEMENT_BITS) | (counts << _HASH_BITS)
        codes |= hashes >> (_ALL_BITS - _HASH_BITS)
        codes.sort()
        return codes

    def _least(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many elements a set of such a size shares with every one alike to it."""
        least: NDArray[np.int64] = np.ceil(self._similarity * sizes - _ROUNDING).astype(np.int64)
        return least
