"""Which student is offered, and whether distillation paid: its scores beside its control's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.evaluation.params import EvaluationParams
from tasks.records.predictions import ROLES, Role
from tasks.statistics.bootstrap import Interval, bootstrap_ratio, paired_bootstrap


@dataclass(frozen=True)
class StudentScores:
    """A student and its control: their size, and a score a record, records in the same order."""

    name: str
    parameters: int
    student: tuple[float, ...]
    control: tuple[float, ...]


@dataclass(frozen=True)
class Offer:
    """One pair, and which of the two would be offered.

    `retention` is the student's score over the adapter's, `offered_retention` that of the offered
    one, None where the adapter scores nothing, and `keeps_at_least` what params ask of that; `gain`
    is the student's score minus its control's. All have paired bootstrap intervals.
    """

    name: str
    system: Role
    retention: Interval | None
    offered_retention: Interval | None
    gain: Interval
    keeps_enough: bool
    keeps_at_least: float
    text: str

    def numbers(self) -> dict[str, Any]:
        """Return it as `metrics.json` holds it."""
        found = asdict(self) | {"folder": f"{self.name}/{self.system}"}
        if self.retention is None:
            # Both are shares of the adapter's score.
            for name in ("retention", "offered_retention"):
                found[f"{name}_reason"] = "the adapter scores nothing"
        return found


def rank_offers(
    pairs: Sequence[StudentScores], adapter: Sequence[float], params: EvaluationParams
) -> list[Offer]:
    """Return an offer of each pair; the first is the smallest of those that keep enough.

    Where none does, the one that keeps most. Of a pair the student is offered if it scores more
    than its control; else the teacher was of no use and the control is offered.
    """
    offers = {pair.name: _offer(pair, adapter, params) for pair in pairs}
    by_size = sorted(pairs, key=lambda pair: pair.parameters)
    enough = [pair for pair in by_size if offers[pair.name].keeps_enough]
    best = max(by_size, key=lambda pair: max(sum(pair.student), sum(pair.control)))
    first = enough[0] if enough else best
    return [offers[pair.name] for pair in (first, *(one for one in by_size if one is not first))]


def _offer(pair: StudentScores, adapter: Sequence[float], params: EvaluationParams) -> Offer:
    drawing: dict[str, Any] = {
        "confidence": params.confidence,
        "resamples": params.resamples,
        "seed": params.seed,
    }
    gain = paired_bootstrap(pair.student, pair.control, **drawing)
    kept: dict[Role, Interval | None] = dict.fromkeys(ROLES)
    if sum(adapter) > 0:
        kept = {
            "student": bootstrap_ratio(pair.student, adapter, **drawing),
            "control": bootstrap_ratio(pair.control, adapter, **drawing),
        }
    system: Role = "student" if gain.value > 0 else "control"
    offered = kept[system]
    enough = offered is not None and offered.value >= params.student_keeps
    text = _text(pair, system, gain, params)
    return Offer(
        pair.name, system, kept["student"], offered, gain, enough, params.student_keeps, text
    )


def _text(pair: StudentScores, system: Role, gain: Interval, params: EvaluationParams) -> str:
    told = (
        f"student {pair.name} scores {gain.value:+.3f} {params.primary_metric} beside its "
        f"control, which was trained without a teacher ({params.confidence:.0%} interval "
        f"{gain.low:+.3f} to {gain.high:+.3f})"
    )
    if system == "control":
        return (
            f"distillation did not beat training without a teacher: {told}; the control is offered"
        )
    sure = "" if gain.low > 0 else "; this may be chance"
    return f"distillation paid: {told}{sure}"
