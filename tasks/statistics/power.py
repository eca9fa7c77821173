"""Power: the smallest difference that so many records can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.statistics.grid import grid_step, on_grid


@dataclass(frozen=True)
class Detectable:
    """The smallest detectable difference; None, with the reason, where the data cannot tell it."""

    value: float | None
    reason: str | None


def smallest_detectable(differences: Sequence[float], *, alpha: float, power: float) -> Detectable:
    """The true mean difference that a two-sided paired test would find with probability `power`.

    It is (t(1 - alpha/2) + t(power)) x s / sqrt(n): t are quantiles of Student's distribution with
    n - 1 degrees of freedom, s the standard deviation of the n differences, each at most about 1
    (Bloom 1995, Minimum detectable effects, Evaluation Review 19(5); Card et al. 2020,
    arXiv:2010.06595, on why to report it). It is for one comparison, before any correction.
    A single record, or differences that are all equal, show no variance and so no such number.
    """
    # Scipy takes a while to import, and a worker that only reads a decision has no use for it.
    from scipy.special import stdtrit

    size = len(differences)
    values = np.asarray(differences, dtype=np.float64)
    if size < 2:
        return Detectable(None, f"{size} records show no variance; it takes two")
    largest = max(1.0, float(np.abs(values).max()))
    values = on_grid(values, largest)
    if np.ptp(values) <= grid_step(largest):
        reason = f"no variance was seen: all {size} differences are {values[0]:+.3g}"
        return Detectable(None, reason)
    quantiles = stdtrit(size - 1, 1 - alpha / 2) + stdtrit(size - 1, power)
    return Detectable(float(quantiles * values.std(ddof=1) / math.sqrt(size)), None)
