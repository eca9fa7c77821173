"""The best of many scores, exact, with ties in order of position."""

from typing import Any

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

_BLOCK = 64


def best_positions(scores: npt.NDArray[np.floating[Any]], count: int) -> Positions:
    """The columns of the `count` highest scores of each row, best first, ties by column.

    Scores are finite, (rows, columns); all columns come back where there are fewer than `count`.
    """
    count = min(count, scores.shape[1])
    best = [best_of_row(row, count) for row in scores]
    return np.stack(best) if best else np.empty((0, count), np.int64)


def best_of_row(scores: npt.NDArray[np.floating[Any]], count: int) -> Positions:
    """The positions of the `count` highest scores, best first, ties by position.

    `count` is at most the number of scores. The maxima of blocks give a bound that few scores
    reach, so that only these are sorted.
    """
    if count == 0:
        return np.empty(0, np.int64)
    candidates = np.arange(len(scores))
    rows = len(scores) // _BLOCK
    if rows >= count:
        # Strided blocks: the maximum runs along the memory. Each of `count` blocks holds a score
        # that is at least the bound, so the best `count` scores are too.
        tops = scores[: rows * _BLOCK].reshape(_BLOCK, rows).max(axis=0)
        candidates = np.flatnonzero(scores >= np.partition(tops, rows - count)[rows - count])
    values = scores[candidates]
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = candidates[values > least]
    ties = candidates[values == least][: count - len(above)]
    above = above[np.argsort(-scores[above], kind="stable")]
    return np.concatenate([above, ties]).astype(np.int64)
