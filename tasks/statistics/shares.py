"""Shares of records, with intervals that hold for few of them."""

import math
from statistics import NormalDist

from tasks.statistics.intervals import Interval


def wilson(share: float, records: int, *, confidence: float) -> Interval:
    """A share of some records, at least one, and its score interval.

    Wilson 1927, Probable inference, the law of succession, and statistical inference. It never
    collapses to a point, not even where all records or none are counted.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * records)) / (1 + z * z / records)
    spread = math.sqrt(share * (1 - share) / records + z * z / (4 * records * records))
    half = z * spread / (1 + z * z / records)
    # At 0 and 1 an end is the share itself, which rounding would miss.
    low, high = max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
    return Interval(share, low, high)
