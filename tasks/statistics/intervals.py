"""Bootstrap intervals of means and of paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.stage.errors import DataError

_BLOCK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """The mean of the values and its percentile bootstrap interval.

    Deterministic for a seed. One value alone gives an interval of no width.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.

    Raises:
        DataError: there are no values, or one is not finite.
    """
    return bootstrap_ratio(
        values, [1.0] * len(values), confidence=confidence, resamples=resamples, seed=seed
    )


def bootstrap_ratio(
    parts: Sequence[float],
    wholes: Sequence[float],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """The sum of the parts over the sum of the wholes, and its percentile bootstrap interval.

    What is drawn are pairs: examples with their losses and tokens, or with two systems' scores.

    Raises:
        DataError: the sides differ in length, there are none, one is not finite, or the wholes
            come to nothing.
    """
    pairs = _finite(parts, wholes)
    generator = np.random.default_rng(seed)
    size = len(pairs)
    found = []
    for count in _blocks(resamples, max(1, _BLOCK_VALUES // size)):
        sums = pairs[generator.integers(0, size, size=(count, size))].sum(axis=1)
        # A draw of which the wholes are nothing says nothing.
        sums = sums[sums[:, 1] > 0]
        found.append(sums[:, 0] / sums[:, 1])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    part, whole = pairs.sum(axis=0)
    return Interval(float(part / whole), float(low), float(high))


def _finite(parts: Sequence[float], wholes: Sequence[float]) -> NDArray[np.float64]:
    """Both sides as (size, 2), once they can be divided."""
    pairs = _same_size(parts, wholes)
    if pairs.size == 0 or not np.isfinite(pairs).all():
        raise DataError(
            f"{len(pairs)} values, {int((~np.isfinite(pairs)).sum())} of them not finite; "
            "an interval needs at least one value and only finite ones",
            "score at least one record, and look for scores that were lost",
        )
    if not pairs[:, 1].sum() > 0:
        raise DataError(
            "what is divided by comes to nothing, so there is no ratio",
            "look for a system that scores 0 on every record",
        )
    return pairs


def paired_bootstrap(
    left: Sequence[float], right: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """The mean of left minus right, record by record, and its percentile bootstrap interval.

    Both hold one score a record, in the same order; records are drawn, so what is hard for both
    sides does not widen the interval.

    Raises:
        DataError: the sides differ in length, or are empty or not finite.
    """
    pairs = _same_size(left, right)
    return bootstrap_mean(
        (pairs[:, 0] - pairs[:, 1]).tolist(),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def _same_size(left: Sequence[float], right: Sequence[float]) -> NDArray[np.float64]:
    if len(left) != len(right):
        raise DataError(
            f"{len(left)} scores against {len(right)}; a paired comparison needs the same records",
            "score both systems on the same records",
        )
    return np.array([left, right], dtype=np.float64).T


def _blocks(total: int, block: int) -> list[int]:
    return [min(block, total - start) for start in range(0, total, block)]
