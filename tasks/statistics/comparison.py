"""Paired comparisons of systems, over all records and by slice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.stage.errors import DataError
from tasks.statistics.correction import holm
from tasks.statistics.intervals import bootstrap_ratios
from tasks.statistics.permutation import sign_flip_p_values
from tasks.statistics.power import smallest_detectable

Key = TypeVar("Key")


@dataclass(frozen=True)
class Inference:
    """How differences are tested: `confidence` of intervals, and 1 - confidence as the level."""

    confidence: float
    power: float
    resamples: int
    seed: int


@dataclass(frozen=True)
class Difference:
    """The mean of left minus right over some records, and how sure it is.

    `p_value_holm` is corrected over the family that the comparison is of; `smallest_detectable` is
    None, with a reason, where no variance was seen.
    """

    records: int
    difference: float
    low: float
    high: float
    p_value: float
    p_value_holm: float
    smallest_detectable: float | None
    smallest_detectable_reason: str | None

    def numbers(self) -> dict[str, Any]:
        """As `metrics.json` holds it: the reason only where it stands for a number."""
        found = asdict(self)
        if self.smallest_detectable_reason is None:
            del found["smallest_detectable_reason"]
        return found


@dataclass(frozen=True)
class Comparison:
    """The difference of two systems over all records, and over each slice of them."""

    whole: Difference
    slices: dict[str, Difference]


def compare_systems(
    scores: Mapping[str, Mapping[str, float]],
    pairs: Sequence[tuple[str, str]],
    slices: Mapping[str, str],
    inference: Inference,
) -> dict[tuple[str, str], Comparison]:
    """Each pair's difference, left minus right, with interval, p-values and power.

    `scores` are by system and record, `slices` each record's slice. Two families are corrected: the
    pairs, over all records; and, for each pair, its slices. The result depends on the seed, not on
    the order of records.

    Raises:
        DataError: systems of a pair were not scored on the same records, there are none, or a score
            is not finite.
    """
    records = sorted(slices)
    _check_records(scores, pairs, records)
    labels = np.array([slices[record] for record in records], dtype=object)
    names = sorted(set(slices.values()))
    masks = [np.ones(len(records)), *((labels == name).astype(np.float64) for name in names)]
    systems = {name for pair in pairs for name in pair}
    values = {name: np.array([scores[name][record] for record in records]) for name in systems}
    columns = [values[left] - values[right] for left, right in pairs]
    parts = np.column_stack([column * mask for column in columns for mask in masks])
    wholes = np.column_stack([mask for _ in columns for mask in masks])
    found = _differences(parts, wholes, inference)
    width = len(masks)
    rows = [found[at : at + width] for at in range(0, len(found), width)]
    wholly = _corrected([row[0] for row in rows])
    return {
        pair: Comparison(whole, dict(zip(names, _corrected(row[1:]), strict=True)))
        for pair, whole, row in zip(pairs, wholly, rows, strict=True)
    }


def paired_differences(
    pairs: Mapping[Key, tuple[Mapping[str, float], Mapping[str, float]]], inference: Inference
) -> dict[Key, Difference]:
    """The difference of each pair of scores by record, left minus right, over what both hold.

    The pairs are one family. One that shares no record is left out.
    """
    found = {}
    for key, (left, right) in pairs.items():
        shared = sorted(left.keys() & right.keys())
        if shared:
            parts = np.array([[left[record] - right[record]] for record in shared])
            [found[key]] = _differences(parts, np.ones(parts.shape), inference)
    return dict(zip(found, _corrected(list(found.values())), strict=True))


def _check_records(
    scores: Mapping[str, Mapping[str, float]],
    pairs: Sequence[tuple[str, str]],
    records: Sequence[str],
) -> None:
    if not records or not pairs:
        raise DataError(
            f"{len(pairs)} pairs of systems on {len(records)} records; expected at least one each",
            "score at least one record, and name two systems",
        )
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        differing = sorted(scores.get(name, {}).keys() ^ set(records))
        if differing:
            raise DataError(
                f"{name} was scored on other records than it is compared on ({len(differing)} "
                f"differ, {differing[0]} for one); a paired comparison needs the same ones",
                "score both systems on the same records",
            )


def _differences(
    parts: NDArray[np.float64], wholes: NDArray[np.float64], inference: Inference
) -> list[Difference]:
    """The difference in each column, not corrected yet."""
    intervals = bootstrap_ratios(
        parts,
        wholes,
        confidence=inference.confidence,
        resamples=inference.resamples,
        seed=inference.seed,
    )
    p_values = sign_flip_p_values(parts, resamples=inference.resamples, seed=inference.seed)
    found = []
    for column, (interval, p_value) in enumerate(zip(intervals, p_values, strict=True)):
        among = parts[wholes[:, column] > 0, column]
        shown = smallest_detectable(
            among.tolist(), alpha=1 - inference.confidence, power=inference.power
        )
        found.append(
            Difference(
                records=len(among),
                difference=interval.value,
                low=interval.low,
                high=interval.high,
                p_value=p_value,
                p_value_holm=p_value,
                smallest_detectable=shown.value,
                smallest_detectable_reason=shown.reason,
            )
        )
    return found


def _corrected(family: Sequence[Difference]) -> list[Difference]:
    corrected = holm([item.p_value for item in family])
    return [
        replace(item, p_value_holm=p_value) for item, p_value in zip(family, corrected, strict=True)
    ]
