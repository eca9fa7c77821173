"""Numbers on a grid, whose sums are exact in any order."""

import numpy as np
from numpy.typing import NDArray

# 30 bits below the largest value; 23 are left for sums of up to eight million of them.
_BITS = 30


def on_grid(values: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """The values rounded to multiples of a power of two, 2^-30 of `largest` or finer.

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
    """The grid's step: two sums of n values each that were equal lie at most n steps apart on it.

    `largest` is above 0.
    """
    return float(2.0 ** (np.ceil(np.log2(largest)) - _BITS))
