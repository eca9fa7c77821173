"""Texts that are nearly the same: MinHash proposes pairs, the exact Jaccard index decides."""

from collections.abc import Sequence
from dataclasses import dataclass

from rensa import RMinHash, RMinHashLSH

# Of the pairs at the threshold, so many are proposed at least.
_RECALL = 0.995


def shingles(text: str, characters: int) -> frozenset[str]:
    """The set of all runs of so many characters in a text, case and spacing folded.

    A text shorter than that is one shingle.
    """
    folded = " ".join(text.casefold().split())
    last = max(len(folded) - characters, 0)
    return frozenset(folded[start : start + characters] for start in range(last + 1))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared elements over all elements, in [0, 1]; 1 for two empty sets."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def bands(similarity: float, permutations: int) -> int:
    """How many bands propose nearly every pair that is at least so similar, and few others."""
    for rows in range(permutations, 0, -1):
        count = permutations // rows
        if permutations % rows == 0 and 1 - (1 - similarity**rows) ** count >= _RECALL:
            return count
    return permutations


@dataclass(frozen=True)
class Sketch:
    """A text as its shingles and their MinHash."""

    shingles: frozenset[str]
    minhash: RMinHash


def sketch(texts: Sequence[str], *, characters: int, permutations: int, seed: int) -> list[Sketch]:
    """The sketches of texts, in their order."""
    sets = [shingles(text, characters) for text in texts]
    # Sorted, because a set's own order changes with Python's hash seed.
    minhashes = RMinHash.from_token_sets([sorted(item) for item in sets], permutations, seed)
    return [Sketch(*pair) for pair in zip(sets, minhashes, strict=True)]


class SimilarTexts:
    """Sketches by key, to be asked for the most similar one above a threshold."""

    def __init__(self, similarity: float, permutations: int) -> None:
        self._similarity = similarity
        self._index = RMinHashLSH(similarity, permutations, bands(similarity, permutations))
        self._sketches: dict[int, Sketch] = {}

    def add(self, key: int, item: Sketch) -> None:
        """Let the sketch be found from now on."""
        self._sketches[key] = item
        self._index.insert(key, item.minhash)

    def nearest(self, item: Sketch) -> tuple[int, float] | None:
        """The key of the most similar sketch and how similar it is, None where none reaches."""
        found = [
            (jaccard(item.shingles, self._sketches[key].shingles), -key)
            for key in sorted(self._index.query(item.minhash))
        ]
        best = max(found, default=(0.0, 0))
        return (-best[1], best[0]) if best[0] >= self._similarity else None
