"""Paired permutation tests: how often chance alone would make a difference this large."""

import numpy as np
from numpy.typing import NDArray

from tasks.stage.errors import DataError
from tasks.statistics.grid import grid_step, on_grid
from tasks.statistics.intervals import blocks

_WORD_BITS = 64


def sign_flip_p_values(
    differences: NDArray[np.float64], *, resamples: int, seed: int
) -> list[float]:
    """Each column's two-sided p-value: were the two systems alike, every sign were a coin's.

    Differences are (records, columns), finite, of scores at most about 1; zeros count for nothing.
    A column of which the sign patterns are no more than `resamples` has them all tried and an exact
    value; else `resamples` are drawn, and p is (1 + as large) / (1 + drawn), which is never 0
    (Phipson and Smyth 2010, Permutation p-values should never be zero, equation 2). A column of
    zeros has p 1. All columns share the draws.

    It is `scipy.stats.permutation_test(permutation_type="samples")`, as a matrix product over
    random bits: for 10,000 records and resamples that took 0.4 s of CPU and scipy 21 s.

    Raises:
        DataError: there are no records, or a difference is not finite.
    """
    if differences.size == 0 or not np.isfinite(differences).all():
        raise DataError(
            f"{len(differences)} differences, {int((~np.isfinite(differences)).sum())} of them not "
            "finite; a test needs at least one and only finite ones",
            "score at least one record, and look for scores that were lost",
        )
    largest = max(1.0, float(np.abs(differences).max()))
    values = on_grid(differences, largest)
    # A sum that ties with what was seen is as large, whatever way both were rounded.
    slack = len(values) * grid_step(largest)
    counts = (values != 0).sum(axis=0)
    # Half of the patterns mirror the other half; all are tried, so that the bound is plain.
    exact = counts <= np.floor(np.log2(resamples))
    found = np.ones(values.shape[1])
    for column in np.flatnonzero(exact):
        found[column] = _exact(values[values[:, column] != 0, column], slack)
    if not exact.all():
        found[~exact] = _drawn(values[:, ~exact], slack, resamples, seed)
    return [float(value) for value in found]


def _exact(values: NDArray[np.float64], slack: float) -> float:
    """The share of all sign patterns whose sum is as far from 0."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= abs(values.sum()) - slack).mean())


def _drawn(
    values: NDArray[np.float64], slack: float, resamples: int, seed: int
) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    size = len(values)
    words = -(-size // _WORD_BITS)
    totals = values.sum(axis=0)
    as_large = np.zeros(values.shape[1])
    for count in blocks(resamples, size):
        drawn = generator.integers(0, 2**_WORD_BITS, size=(count, words), dtype=np.uint64)
        bits = np.unpackbits(drawn.view(np.uint8), axis=1, count=size)
        # Where a bit is set the sign turns, which takes the value away twice.
        sums = totals - 2 * (bits.astype(np.float64) @ values)
        as_large += (np.abs(sums) >= np.abs(totals) - slack).sum(axis=0)
    p_values: NDArray[np.float64] = (1 + as_large) / (1 + resamples)
    return p_values
