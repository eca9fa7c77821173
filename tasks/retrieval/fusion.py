"""Two rankings made one by reciprocal rank, each with its weight, and what a ranking is worth."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Ranks behind it count as not found, here and in evaluation's retrieval metrics.
DEEPEST = 10


@dataclass(frozen=True, slots=True)
class Weights:
    """How much the ranks of each half count; a half of weight 0 is not searched at all."""

    lexical: float
    dense: float

    def __str__(self) -> str:
        """Return them as people read them."""
        return f"{self.lexical:g} to {self.dense:g}"


@dataclass(frozen=True, slots=True)
class Halves:
    """What BM25 and dense search found for one question: places of passages, best first."""

    lexical: Sequence[int]
    dense: Sequence[int]

    def fused(self, weights: Weights, constant: int) -> list[tuple[int, float]]:
        """Return places with their fused scores, best first; a half of weight 0 adds none."""
        pairs = ((self.lexical, weights.lexical), (self.dense, weights.dense))
        used = [(ranking, weight) for ranking, weight in pairs if weight > 0]
        return fuse_rankings(
            [ranking for ranking, _ in used],
            weights=[weight for _, weight in used],
            constant=constant,
        )


def fuse_rankings(
    rankings: Sequence[Sequence[int]], *, weights: Sequence[float], constant: int
) -> list[tuple[int, float]]:
    """Return items with the sum of weight / (constant + rank) over rankings, best first, ties by
    item.

    Ranks begin at 1; a ranking that lacks an item adds nothing to it (Cormack, Clarke and
    Buettcher, Reciprocal Rank Fusion, SIGIR 2009, section 2; the weights are an addition).
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, item in enumerate(ranking, start=1):
            scores[item] += weight / (constant + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def first_gold_rank(is_gold: Iterable[bool]) -> float:
    """Return the rank, from 1, of the first passage of a gold document; infinite where none of the
    best `DEEPEST` is of one.
    """
    ranks = (rank for rank, gold in enumerate(is_gold, start=1) if gold)
    first = next(ranks, math.inf)
    return first if first <= DEEPEST else math.inf
