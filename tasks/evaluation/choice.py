"""Which student is offered, and whether distillation paid: its scores beside its twin's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tasks.evaluation.params import EvaluationParams
from tasks.statistics.intervals import Interval, bootstrap_ratio, paired_bootstrap

Role = Literal["student", "twin"]


@dataclass(frozen=True)
class Pair:
    """A student and its twin: their size, and a score a record, records in the same order."""

    name: str
    parameters: int
    student: tuple[float, ...]
    twin: tuple[float, ...]


@dataclass(frozen=True)
class Offer:
    """The pair that is offered, and which of the two.

    `retention` is the offered one's score over the adapter's, None where the adapter scores
    nothing; `gain` is the student's score minus its twin's; both with paired bootstrap intervals.
    """

    name: str
    system: Role
    retention: Interval | None
    gain: Interval
    keeps_enough: bool
    text: str

    def numbers(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        if self.retention is None:
            found["retention_reason"] = "the adapter scores nothing"
        return found | {"folder": f"{self.name}/{self.system}"}


def choose(pairs: Sequence[Pair], adapter: Sequence[float], params: EvaluationParams) -> Offer:
    """The smallest pair of which the better one keeps enough of the adapter's score.

    Where none does, the one that keeps most. Of a pair the student is offered if it scores more
    than its twin; else the teacher was of no use and the twin is offered.
    """
    offers = {pair.name: _offer(pair, adapter, params) for pair in pairs}
    by_size = sorted(pairs, key=lambda pair: pair.parameters)
    enough = [pair for pair in by_size if offers[pair.name].keeps_enough]
    best = max(by_size, key=lambda pair: max(sum(pair.student), sum(pair.twin)))
    return offers[(enough[0] if enough else best).name]


def _offer(pair: Pair, adapter: Sequence[float], params: EvaluationParams) -> Offer:
    drawing: dict[str, Any] = {
        "confidence": params.confidence,
        "resamples": params.resamples,
        "seed": params.seed,
    }
    gain = paired_bootstrap(pair.student, pair.twin, **drawing)
    system: Role = "student" if gain.value > 0 else "twin"
    scores = pair.student if system == "student" else pair.twin
    retention = bootstrap_ratio(scores, adapter, **drawing) if sum(adapter) > 0 else None
    keeps = retention is not None and retention.value >= params.student_keeps
    return Offer(pair.name, system, retention, gain, keeps, _text(pair, system, gain, params))


def _text(pair: Pair, system: Role, gain: Interval, params: EvaluationParams) -> str:
    told = (
        f"student {pair.name} scores {gain.value:+.3f} {params.primary_metric} against its twin, "
        f"which had no teacher ({params.confidence:.0%} interval {gain.low:+.3f} to "
        f"{gain.high:+.3f})"
    )
    if system == "twin":
        return f"distillation did not beat training without a teacher: {told}; the twin is offered"
    sure = "" if gain.low > 0 else "; so few records cannot tell it from none"
    return f"distillation paid: {told}{sure}"
