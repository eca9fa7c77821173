"""Every rule of promotion. To add one: a function here, and a block in `RulesParams`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tasks.promotion import behaviour, costs, gains, reign, soundness
from tasks.promotion.case import Case
from tasks.promotion.reason import Finding, Model

_BOTH: tuple[Model, ...] = ("adapter", "student")
_ADAPTER: tuple[Model, ...] = ("adapter",)
_STUDENT: tuple[Model, ...] = ("student",)


@dataclass(frozen=True)
class Rule:
    """One rule: its block in `params/promotion.yaml`, what it finds, and of which models."""

    name: str
    find: Callable[[Case, Any], Iterable[Finding]]
    models: tuple[Model, ...] = _BOTH


RULES = (
    Rule("data_accepted", soundness.data_accepted),
    Rule("no_leak", soundness.no_leak),
    Rule("evidence", soundness.complete),
    Rule("same_records", soundness.same_records),
    Rule("power", soundness.enough_records),
    Rule("stops", behaviour.stops),
    Rule("readable", behaviour.readable),
    Rule("beats_base", gains.beats_base),
    Rule("not_worse", reign.not_worse),
    Rule("not_less_likely", reign.not_less_likely),
    Rule("retrieval_recall", behaviour.retrieval_recall),
    Rule("groundedness", behaviour.groundedness),
    Rule("abstention", behaviour.abstention),
    Rule("forgetting", behaviour.forgetting, _ADAPTER),
    Rule("instructions", behaviour.instructions, _ADAPTER),
    Rule("retention", gains.retention, _STUDENT),
    Rule("student_keeps", gains.student_keeps, _STUDENT),
    Rule("gain_over_twin", gains.gain_over_twin, _STUDENT),
    Rule("latency", costs.latency),
    Rule("size", costs.size),
    Rule("parity", costs.parity),
)
