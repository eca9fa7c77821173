"""Bootstrap intervals of means, ratios and paired differences, and Wilson's of shares."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.stage.errors import DataError

# 30 bits below the largest value; 23 are left for sums of up to eight million of them.
_BITS = 30

Key = TypeVar("Key")


def on_grid(values: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Return the values rounded to multiples of a power of two, 2^-30 of `largest` or finer.

    `largest` bounds what the values were made of (two scores, for a difference), so that their
    rounding errors become zeros. A double holds every sum of such values without rounding: sums do
    not depend on the order or the threads in which a matrix product adds.
    """
    if largest == 0:
        return values
    step = grid_step(largest)
    rounded: NDArray[np.float64] = np.rint(values / step) * step
    return rounded


def grid_step(largest: float) -> float:
    """Return the grid's step: two sums of n values each that were equal lie at most n steps apart
    on it.

    `largest` is above 0.
    """
    return float(2.0 ** (np.ceil(np.log2(largest)) - _BITS))


_BLOCK_VALUES = 1_000_000

_KEPT_BYTES = 200_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """Return the mean of the values and its percentile bootstrap interval.

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
    """Return the sum of the parts over the sum of the wholes, and its percentile bootstrap
    interval.

    What is drawn are pairs: examples with their losses and tokens, or with two systems' scores.

    Raises:
        DataError: the sides differ in length, there are none, one is not finite, or the wholes
            come to nothing.
    """
    pairs = _same_size(parts, wholes)
    return bootstrap_ratios(
        pairs[:, :1], pairs[:, 1:], confidence=confidence, resamples=resamples, seed=seed
    )[0]


def bootstrap_ratios(
    parts: NDArray[np.float64],
    wholes: NDArray[np.float64],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> list[Interval]:
    """Return each column's sum of parts over sum of wholes, with its percentile bootstrap interval.

    Both are (records, columns). All columns share the draws of records, so many systems and slices
    cost little more than one: a slice is a column whose parts and wholes are 0 elsewhere.

    Raises:
        DataError: there are no records, a value is not finite, or a column's wholes come to
            nothing.
    """
    _check(parts, wholes)
    values = parts.sum(axis=0) / wholes.sum(axis=0)
    ratios = Bootstrap(resamples, seed).ratios(parts, wholes)
    tail = (1 - confidence) / 2
    found = []
    for value, drawn in zip(values, ratios.T, strict=True):
        low, high = np.nanquantile(drawn, [tail, 1 - tail])
        found.append(Interval(float(value), float(low), float(high)))
    return found


def bootstrap_median_ratio(
    parts: Sequence[float],
    wholes: Sequence[float],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Return the median of the parts over the median of the wholes, and its percentile bootstrap
    interval.

    What is drawn are pairs: rounds in which both sides took a turn. One round that was disturbed
    changes a median little. A few rounds give a wide interval: it ends at values that were seen.

    Raises:
        DataError: the sides differ in length, there are none, one is not finite, or a whole is
            not above 0.
    """
    pairs = _same_size(parts, wholes)
    _check(pairs[:, :1], pairs[:, 1:])
    if pairs[:, 1].min() <= 0:
        raise DataError(
            f"the least value that is divided by is {pairs[:, 1].min()}; expected one above 0",
            "look for a turn that took no time",
        )
    generator = np.random.default_rng(seed)
    drawn = pairs[generator.integers(0, len(pairs), size=(resamples, len(pairs)))]
    part, whole = np.moveaxis(np.median(drawn, axis=1), -1, 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(part / whole, [tail, 1 - tail])
    value = np.median(pairs[:, 0]) / np.median(pairs[:, 1])
    return Interval(float(value), float(low), float(high))


def mean_intervals(
    columns: Mapping[Key, Sequence[float]], *, confidence: float, resamples: int, seed: int
) -> dict[Key, Interval]:
    """Return each column's mean with its interval; columns of as many values share the draws.

    Raises:
        DataError: a column is empty, or a value is not finite.
    """
    of_size: dict[int, list[Key]] = {}
    for key, values in columns.items():
        of_size.setdefault(len(values), []).append(key)
    found: dict[Key, Interval] = {}
    for keys in of_size.values():
        parts = np.array([columns[key] for key in keys], dtype=np.float64).T
        drawn = bootstrap_ratios(
            parts, np.ones_like(parts), confidence=confidence, resamples=resamples, seed=seed
        )
        found |= zip(keys, drawn, strict=True)
    return {key: found[key] for key in columns}


class Bootstrap:
    """Draws of records with replacement: the same ones for all that is asked of so many records.

    They are kept, a byte a record and draw, unless that is too much, so that a second question
    about as many records costs a matrix product.
    """

    def __init__(self, resamples: int, seed: int) -> None:
        """Draw nothing yet."""
        self._resamples = resamples
        self._seed = seed
        self._kept: dict[int, list[NDArray[np.uint8]]] = {}

    def ratios(
        self, parts: NDArray[np.float64], wholes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (resamples, columns): a column's sum of parts over sum of wholes, draw by draw.

        Both are (records, columns) and finite, and no column's wholes come to nothing. A draw of
        which the wholes are nothing says nothing: NaN.
        """
        values = parts.sum(axis=0) / wholes.sum(axis=0)
        # What is left of the parts is small and, where all ratios are alike, zero.
        largest = max(float(np.abs(parts).max()), float(np.abs(values * wholes).max()))
        rest = on_grid(parts - values * wholes, largest)
        both = np.hstack([rest, on_grid(wholes, float(np.abs(wholes).max()))])
        sums = np.vstack([counts @ both for counts in self._counts(len(parts))])
        rests, totals = sums[:, : len(values)], sums[:, len(values) :]
        # Where totals are 0 the division has no say in what comes out.
        found = values + rests / np.where(totals > 0, totals, 1.0)
        return np.where(totals > 0, found, np.nan)

    def _counts(self, size: int) -> Iterator[NDArray[np.float64]]:
        """Yield blocks of resamples, (block, size): how often each drew every record."""
        # A byte holds every count: of 256 records or more, none is drawn so often by chance.
        if size not in self._kept and size * self._resamples <= _KEPT_BYTES:
            self._kept = {size: [times.astype(np.uint8) for times in self._draw(size)]}
        for times in self._kept.get(size) or self._draw(size):
            yield times.astype(np.float64)

    def _draw(self, size: int) -> Iterator[NDArray[np.int64]]:
        generator = np.random.default_rng(self._seed)
        for count in blocks(self._resamples, size):
            drawn = generator.integers(0, size, size=(count, size))
            drawn += np.arange(count)[:, None] * size
            times = np.bincount(drawn.ravel(), minlength=count * size)
            yield times.reshape(count, size)


def _check(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> None:
    lost = int((~np.isfinite(parts)).sum() + (~np.isfinite(wholes)).sum())
    if parts.size == 0 or lost:
        raise DataError(
            f"{len(parts)} values, {lost} of them not finite; "
            "an interval needs at least one value and only finite ones",
            "score at least one record, and look for scores that were lost",
        )
    if not (wholes.sum(axis=0) > 0).all():
        raise DataError(
            "what is divided by comes to nothing, so there is no ratio",
            "look for a system that scores 0 on every record",
        )


def paired_bootstrap(
    left: Sequence[float], right: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """Return the mean of left minus right, record by record, and its percentile bootstrap interval.

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


def blocks(resamples: int, size: int) -> list[int]:
    """Return how many resamples of `size` records are drawn at a time, so that memory stays
    bounded.
    """
    block = max(1, _BLOCK_VALUES // size)
    return [min(block, resamples - start) for start in range(0, resamples, block)]


def wilson(count: int, records: int, *, confidence: float) -> Interval:
    """Return the share of so many records, at least one, and Wilson's score interval.

    It never collapses to a point, not even where all records or none are counted.
    """
    # Scipy's statistics take a second to import, and few who draw intervals have use for them.
    from scipy.stats import binomtest

    bounds = binomtest(count, records).proportion_ci(confidence, method="wilson")
    return Interval(count / records, float(bounds.low), float(bounds.high))
