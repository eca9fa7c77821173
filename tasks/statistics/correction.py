"""Correction of p-values for having asked several questions at once."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected over their family, in their order, at most 1.

    At a level alpha, calling those below it different errs anywhere in the family with a
    probability of at most alpha. The smallest of m is multiplied by m, the next by m - 1 and so on,
    and none falls below one before it (Holm 1979, A simple sequentially rejective multiple test
    procedure). Scipy corrects for false discoveries only.
    """
    corrected = [0.0] * len(p_values)
    bound = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        bound = max(bound, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = bound
    return corrected
