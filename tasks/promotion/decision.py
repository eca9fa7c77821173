"""The decision: every rule applied to the evidence, from files alone.

To add a rule: a function in `rules/`, a line in `RULES`, and a block in `RulesParams`. One that
only some tasks have is named by their `TaskType`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tasks.promotion.evidence import EvidenceFiles, ModelEvidence, read_evidence
from tasks.promotion.params import PromotionParams, RuleParams
from tasks.promotion.results import Reason, RuleOutcome, RuleResult
from tasks.promotion.rules import (
    answer_quality,
    baselines,
    calls,
    data_quality,
    drift,
    labels,
    regression,
    resources,
    summaries,
)
from tasks.records.schema import ServedModel
from tasks.task_types.definition import TaskType
from tasks.task_types.table import TASK_TYPES

_BOTH: tuple[ServedModel, ...] = ("adapter", "student")

_ADAPTER: tuple[ServedModel, ...] = ("adapter",)

_STUDENT: tuple[ServedModel, ...] = ("student",)


@dataclass(frozen=True)
class Rule:
    """One rule: its block in `params/promotion.yaml`, what it finds, and of which models."""

    name: str
    find: Callable[[ModelEvidence, Any], Iterable[RuleResult]]
    models: tuple[ServedModel, ...] = _BOTH


RULES = (
    Rule("data_accepted", data_quality.data_accepted),
    Rule("no_leak", data_quality.no_leak),
    Rule("evidence", data_quality.complete),
    Rule("same_records", data_quality.same_records),
    Rule("power", data_quality.enough_records),
    Rule("worn_records", data_quality.worn_records),
    Rule("stops", answer_quality.stops),
    Rule("readable", answer_quality.readable),
    Rule("inside_labels", labels.inside_labels),
    Rule("faithful", summaries.faithful),
    Rule("valid_calls", calls.valid_calls),
    Rule("beats_base", baselines.beats_base),
    Rule("beats_linear", labels.beats_linear, _ADAPTER),
    Rule("not_worse", regression.not_worse),
    Rule("not_less_likely", regression.not_less_likely),
    Rule("not_worse_than_best", drift.not_worse_than_best),
    Rule("not_less_likely_than_best", drift.not_less_likely_than_best),
    Rule("retrieval_recall", answer_quality.retrieval_recall),
    Rule("groundedness", answer_quality.groundedness),
    Rule("abstention", answer_quality.abstention),
    Rule("shadow", answer_quality.shadow),
    Rule("forgetting", answer_quality.forgetting, _ADAPTER),
    Rule("instructions", answer_quality.instructions, _ADAPTER),
    Rule("retention", baselines.retention, _STUDENT),
    Rule("student_keeps", baselines.student_keeps, _STUDENT),
    Rule("gain_over_control", baselines.gain_over_control, _STUDENT),
    Rule("latency", resources.latency),
    Rule("size", resources.size),
    Rule("parity", resources.parity),
)


@dataclass(frozen=True)
class Decision:
    """The verdict on one model: promote where no rule refuses; reasons in the rules' order."""

    model: ServedModel
    verdict: Literal["promote", "refuse"]
    reasons: tuple[Reason, ...]

    @property
    def refused(self) -> tuple[Reason, ...]:
        """Return what refused the model."""
        return self._of("refused")

    @property
    def warned(self) -> tuple[Reason, ...]:
        """Return what a person should know of, though it did not refuse."""
        return self._of("warned")

    @property
    def passed(self) -> tuple[Reason, ...]:
        """Return the rules with nothing against the model, without its slices: they may be many."""
        return tuple(item for item in self._of("passed", "off") if "/" not in item.rule)

    def _of(self, *outcomes: RuleOutcome) -> tuple[Reason, ...]:
        return tuple(item for item in self.reasons if item.outcome in outcomes)


def decide(params: PromotionParams, files: EvidenceFiles, *, model: ServedModel) -> Decision:
    """Decide whether a model is worth promoting, with what every rule found.

    Raises:
        DataError: the evidence is not there, or is not what it should be.
    """
    evidence = read_evidence(params, files, model)
    reasons = tuple(
        reason for rule in rules_of(model, evidence.task) for reason in _apply(rule, evidence)
    )
    refused = any(item.outcome == "refused" for item in reasons)
    return Decision(model, "refuse" if refused else "promote", reasons)


def rules_of(model: ServedModel, task: TaskType) -> list[Rule]:
    """Return the rules that a model of a task has to pass, in their order."""
    others = {name for one in TASK_TYPES.values() for name in one.rules} - task.rules
    return [rule for rule in RULES if model in rule.models and rule.name not in others]


def _apply(rule: Rule, evidence: ModelEvidence) -> Iterator[Reason]:
    block: RuleParams = getattr(evidence.params.rules, rule.name)
    if not block.enabled:
        text = f"{rule.name} is off: params/promotion.yaml does not ask for it"
        yield Reason(rule.name, "off", text, None, None, None)
        return
    why = evidence.task.why_unasked(rule.name)
    if why is not None:
        yield Reason(rule.name, "off", why, None, None, None)
        return
    for found in rule.find(evidence, block):
        name = rule.name if found.place is None else f"{rule.name}/{found.place}"
        outcome = _outcome(found, block)
        yield Reason(name, outcome, found.text, found.value, found.bound, found.interval)


def _outcome(found: RuleResult, block: RuleParams) -> RuleOutcome:
    if found.off:
        return "off"
    if found.holds:
        return "passed"
    return "warned" if found.mild or block.severity == "warn" else "refused"
