"""Two systems held against each other, record by record: pure, from predictions alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from tasks.promotion.params import PromotionParams
from tasks.records.predictions import ALL_MODES, COMPARED_SCORES, Prediction, record_scores
from tasks.stage.errors import ConfigError, DataError
from tasks.statistics import significance as paired
from tasks.statistics.significance import holm

# A record is the same one where its id, what was asked and what was expected are; of a conversation
# each turn is.
_Key = tuple[str, str, str, int]
_Rows = Mapping[_Key, Prediction]


@dataclass(frozen=True)
class Side:
    """One system as one evaluation scored it; `name` is what a person called it by."""

    name: str
    system: str
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class Difference(paired.Difference):
    """Right minus left over the records they share, and the mean of each side.

    The p-values are corrected over the modes, or over the slices.
    """

    left: float
    right: float


@dataclass(frozen=True)
class Change:
    """One record, how both sides scored on it, and what they answered."""

    record: str
    slice: str
    question: str
    reference: str
    left_score: float
    right_score: float
    left_output: str
    right_output: str


@dataclass(frozen=True)
class SystemComparison:
    """What became better or worse from left to right, in `mode` where nothing else is said.

    `modes` and `slices` hold the differences; `only_left` and `only_right` count the records that
    the other side was not asked; `changed` are those whose score moved most.
    """

    left: str
    right: str
    left_system: str
    right_system: str
    metric: str
    mode: str
    confidence: float
    power: float
    records: int
    only_left: int
    only_right: int
    verdict: Literal["better", "worse", "no difference that shows"]
    modes: dict[str, Difference]
    slices: dict[str, Difference]
    changed: tuple[Change, ...]


def compare_systems(
    left: Side, right: Side, *, mode: str, metric: str, changes: int, params: PromotionParams
) -> SystemComparison:
    """Compare right with left on the records that both were asked.

    At most `changes` records that changed are listed, the largest change first.

    Raises:
        ConfigError: there is no such metric, or a side was not asked in the mode.
        DataError: the sides share no record in the mode.
    """
    _check_metric(metric)
    lefts, rights = _by_mode(left.predictions), _by_mode(right.predictions)
    _check_mode(mode, left, lefts)
    _check_mode(mode, right, rights)
    common = {
        name: keys
        for name in lefts
        if name in rights and (keys := _shared(lefts[name], rights[name]))
    }
    if mode not in common:
        raise _nothing_shared(left, right, mode)
    found = {
        name: _differences(lefts[name], rights[name], keys, metric, params)
        for name, keys in common.items()
    }
    modes = _corrected({name: whole for name, (whole, _) in found.items()})
    shared = common[mode]
    return SystemComparison(
        left=left.name,
        right=right.name,
        left_system=left.system,
        right_system=right.system,
        metric=metric,
        mode=mode,
        confidence=params.confidence,
        power=params.power,
        records=_records(shared),
        only_left=_records(lefts[mode].keys() - set(shared)),
        only_right=_records(rights[mode].keys() - set(shared)),
        verdict=_verdict(modes[mode]),
        modes=modes,
        slices=found[mode][1],
        changed=tuple(_changes(lefts[mode], rights[mode], shared, metric)[:changes]),
    )


def _nothing_shared(left: Side, right: Side, mode: str) -> DataError:
    return DataError(
        f"{left.name} and {right.name} share no record in mode {mode}: none that was asked has the "
        "same id, question and reference in both, so there is nothing to compare",
        "score both on one data set: compare nights of the same data, or run one of them again "
        "with the other's",
    )


def _by_mode(predictions: Sequence[Prediction]) -> dict[str, dict[_Key, Prediction]]:
    found: dict[str, dict[_Key, Prediction]] = {}
    for row in sorted(predictions, key=lambda row: ALL_MODES.index(row.mode)):
        key = row.record, row.question, row.reference, row.turn or 0
        found.setdefault(row.mode, {})[key] = row
    return found


def _check_metric(metric: str) -> None:
    if metric not in COMPARED_SCORES:
        raise ConfigError(
            f"there is no metric {metric!r}; expected one of {', '.join(COMPARED_SCORES)}",
            "name one of these with --metric",
        )


def _check_mode(mode: str, side: Side, found: Mapping[str, _Rows]) -> None:
    if mode not in found:
        raise ConfigError(
            f"{side.system} of {side.name} was not asked in mode {mode}; it was in "
            f"{', '.join(found)}",
            "name a mode that both were asked in with --mode",
        )


def _shared(left: _Rows, right: _Rows) -> list[_Key]:
    return sorted(left.keys() & right.keys())


def _records(keys: Iterable[_Key]) -> int:
    return len({key[0] for key in keys})


def _differences(
    left: _Rows, right: _Rows, keys: Sequence[_Key], metric: str, params: PromotionParams
) -> tuple[Difference, dict[str, Difference]]:
    """Return the difference over all of these records, and by slice, as right names it."""
    records = dict.fromkeys(key[0] for key in keys)
    names = {record: f"{place:09d}" for place, record in enumerate(records)}
    scores = {
        side: {
            names[record]: score
            for record, score in record_scores((rows[key] for key in keys), metric).items()
        }
        for side, rows in (("right", right), ("left", left))
    }
    slices = {names[key[0]]: right[key].slice for key in keys}
    inference = paired.Inference(params.confidence, params.power, params.resamples, params.seed)
    pair = ("right", "left")
    found = paired.compare_systems(scores, [pair], slices, inference)[pair]

    def told(difference: paired.Difference, within: str | None) -> Difference:
        among = [name for name, label in slices.items() if within in (None, label)]
        means = {
            side: sum(rows[name] for name in among) / len(among) for side, rows in scores.items()
        }
        return Difference(left=means["left"], right=means["right"], **asdict(difference))

    return told(found.whole, None), {name: told(row, name) for name, row in found.slices.items()}


def _corrected(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """Return the modes' differences, their p-values corrected over the modes."""
    corrected = holm([row.p_value for row in found.values()])
    return {
        name: replace(row, p_value_holm=value)
        for (name, row), value in zip(found.items(), corrected, strict=True)
    }


def _verdict(found: Difference) -> Literal["better", "worse", "no difference that shows"]:
    if found.low > 0:
        return "better"
    return "worse" if found.high < 0 else "no difference that shows"


def _changes(left: _Rows, right: _Rows, keys: Sequence[_Key], metric: str) -> list[Change]:
    """Return the records whose score changed, the largest first; of equal changes, losses first."""
    found = [
        Change(
            record=key[0],
            slice=right[key].slice,
            question=key[1],
            reference=key[2],
            left_score=left[key].score(metric),
            right_score=right[key].score(metric),
            left_output=left[key].output,
            right_output=right[key].output,
        )
        for key in keys
    ]
    moved = [item for item in found if item.left_score != item.right_score]
    return sorted(
        moved,
        key=lambda item: (
            -abs(item.right_score - item.left_score),
            item.right_score - item.left_score,
            item.record,
        ),
    )
