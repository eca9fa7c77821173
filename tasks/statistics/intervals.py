"""Bootstrap intervals of means and of paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise DataError(
            f"{sample.size} values, {int((~np.isfinite(sample)).sum())} of them not finite; "
            "an interval needs at least one value and only finite ones",
            "score at least one record, and look for scores that were lost",
        )
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_VALUES // sample.size)
    means = [
        sample[generator.integers(0, sample.size, size=(count, sample.size))].mean(axis=1)
        for count in _blocks(resamples, block)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high))


def paired_bootstrap(
    left: Sequence[float], right: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """The mean of left minus right, record by record, and its percentile bootstrap interval.

    Both hold one score a record, in the same order; records are drawn, so what is hard for both
    sides does not widen the interval.

    Raises:
        DataError: the sides differ in length, or are empty or not finite.
    """
    if len(left) != len(right):
        raise DataError(
            f"{len(left)} scores against {len(right)}; a paired comparison needs the same records",
            "score both systems on the same records",
        )
    difference = np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)
    return bootstrap_mean(
        difference.tolist(), confidence=confidence, resamples=resamples, seed=seed
    )


def _blocks(total: int, block: int) -> list[int]:
    return [min(block, total - start) for start in range(0, total, block)]
