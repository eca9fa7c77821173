"""Non-inferiority: whether a loss of so much can be ruled out, overall and slice by slice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.statistics.bootstrap import Bootstrap, Interval
from tasks.statistics.significance import holm, smallest_detectable

# `unproven`: so many records would have shown it of two systems that are alike, and did not.
LossConclusion = Literal["not_worse", "worse", "underpowered", "unproven"]


@dataclass(frozen=True)
class Pairs:
    """What two systems differ by, record by record: the difference is sum(parts) / sum(wholes).

    For a mean the wholes are ones; for nats a token they are tokens. Both are finite, the wholes
    above 0; `slices` holds each record's slice.
    """

    parts: NDArray[np.float64]
    wholes: NDArray[np.float64]
    slices: Sequence[str]


@dataclass(frozen=True)
class LossTestResult:
    """What was found of one loss, a margin in (0, 1); p-values are corrected over its family.

    `p_loss` is the chance of such records were the loss as large as the margin, `p_no_loss` were it
    no larger. The interval is of the level 1 - 2 (1 - confidence): each of its ends is a one-sided
    bound. `smallest_detectable` is the loss that could be ruled out with the test's power were both
    alike, None where no variance was seen; `family` is of how many findings this is one.
    """

    records: int
    interval: Interval
    margin: float
    p_loss: float
    p_no_loss: float
    smallest_detectable: float | None
    family: int
    conclusion: LossConclusion


@dataclass(frozen=True)
class LossTest:
    """Tests losses one-sided, at the level 1 - `confidence`, by bootstrap."""

    confidence: float
    power: float
    bootstrap: Bootstrap

    def whole(self, pairs: Pairs, margin: float) -> LossTestResult:
        """Return what all records say of a loss of `margin`."""
        everything = np.ones(len(pairs.parts), dtype=bool)
        return self._judged([everything], pairs, margin)[0]

    def slices(self, pairs: Pairs, margin: float) -> dict[str, LossTestResult]:
        """Return what each slice says of a loss of `margin` in it, corrected over the slices
        (Holm).
        """
        labels = np.array(list(pairs.slices), dtype=object)
        names = sorted(set(pairs.slices))
        masks = [labels == name for name in names]
        return dict(zip(names, self._judged(masks, pairs, margin), strict=True))

    def _judged(
        self, masks: Sequence[NDArray[np.bool_]], pairs: Pairs, margin: float
    ) -> list[LossTestResult]:
        """Return what each mask's records say, corrected over the masks."""
        columns = np.column_stack(masks)
        drawn = self.bootstrap.ratios(
            pairs.parts[:, None] * columns, pairs.wholes[:, None] * columns
        )
        found = []
        for column, mask in enumerate(masks):
            among = drawn[~np.isnan(drawn[:, column]), column]
            found.append(self._measured(pairs, mask, among, margin, family=len(masks)))
        losses = holm([item.p_loss for item in found])
        none = holm([item.p_no_loss for item in found])
        corrected = [
            replace(item, p_loss=p_loss, p_no_loss=p_no_loss)
            for item, p_loss, p_no_loss in zip(found, losses, none, strict=True)
        ]
        return [replace(item, conclusion=self._conclude(item)) for item in corrected]

    def _measured(
        self,
        pairs: Pairs,
        mask: NDArray[np.bool_],
        drawn: NDArray[np.float64],
        margin: float,
        *,
        family: int,
    ) -> LossTestResult:
        """Return what one mask's records say by themselves; where they stand is not known yet."""
        parts, wholes = pairs.parts[mask], pairs.wholes[mask]
        value = parts.sum() / wholes.sum()
        alpha = 1 - self.confidence
        low, high = np.quantile(drawn, [alpha, 1 - alpha])
        # Were a whole point lost on a share of all records that is the margin, so many records
        # would all look alike with these chances, whatever draws from them say.
        p_loss = max(_share(drawn <= -margin), (1 - margin) ** len(parts))
        p_no_loss = max(_share(drawn >= -margin), margin ** len(parts))
        # The ratio's linear form, of which a mean is the plainest.
        linear = (parts - value * wholes) / wholes.mean()
        shown = smallest_detectable(linear.tolist(), alpha=2 * alpha / family, power=self.power)
        interval = Interval(float(value), float(low), float(high))
        return LossTestResult(
            len(parts), interval, margin, p_loss, p_no_loss, shown.value, family, "unproven"
        )

    def _conclude(self, found: LossTestResult) -> LossConclusion:
        alpha = 1 - self.confidence
        if found.p_loss < alpha:
            return "not_worse"
        if found.p_no_loss < alpha:
            return "worse"
        shown = found.smallest_detectable
        few = found.records < least_records(found.margin, self.confidence, found.family)
        return "underpowered" if few or shown is None or shown > found.margin else "unproven"


def _share(draws: NDArray[np.bool_]) -> float:
    """Return the share of draws, never 0 (Davison and Hinkley 1997, Bootstrap Methods, section
    4.4).
    """
    return float((1 + draws.sum()) / (1 + len(draws)))


def records_needed(found: LossTestResult, confidence: float) -> int:
    """Return about how many records it takes to rule the loss out of two equal systems."""
    least = least_records(found.margin, confidence, found.family)
    if found.smallest_detectable is None:
        return least
    by_spread = math.ceil(found.records * (found.smallest_detectable / found.margin) ** 2)
    return max(least, by_spread)


def least_records(margin: float, confidence: float, family: int = 1) -> int:
    """Return the fewest records that rule a loss of `margin` out, however alike they look.

    `family` is of how many findings it is one.
    """
    return math.ceil(math.log((1 - confidence) / family) / math.log(1 - margin))
