"""The decision: pure, from what the night left in files alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.promotion.case import Case, read_case
from tasks.promotion.evidence import Evidence
from tasks.promotion.params import PromotionParams, RuleParams
from tasks.promotion.reason import Finding, Model, Outcome, Reason
from tasks.promotion.rules import RULES, Rule


@dataclass(frozen=True)
class Decision:
    """The verdict on one model: promote where no rule refuses; reasons in the rules' order."""

    model: Model
    verdict: Literal["promote", "refuse"]
    reasons: tuple[Reason, ...]

    def told(self) -> tuple[Reason, ...]:
        """What a person reads first: what refused and what warned; without either, every rule.

        Slices that passed are left out: there may be many.
        """
        against = [item for item in self.reasons if item.outcome == "refused"]
        warned = [item for item in self.reasons if item.outcome == "warned"]
        if against:
            return (*against, *warned)
        passed = [item for item in self.reasons if item.passed and "/" not in item.rule]
        return (*warned, *passed)


def decide(params: PromotionParams, evidence: Evidence, *, model: Model) -> Decision:
    """Whether a model is worth promoting, with what every rule found.

    Raises:
        DataError: the evidence is not there, or is not what it should be.
    """
    case = read_case(params, evidence, model)
    reasons = tuple(
        reason for rule in RULES if model in rule.models for reason in _apply(rule, case)
    )
    refused = any(item.outcome == "refused" for item in reasons)
    return Decision(model, "refuse" if refused else "promote", reasons)


def _apply(rule: Rule, case: Case) -> Iterator[Reason]:
    block: RuleParams = getattr(case.params.rules, rule.name)
    if not block.enabled:
        text = f"{rule.name} is off: params/promotion.yaml does not ask for it"
        yield Reason(rule.name, "off", text, None, None, None)
        return
    for found in rule.find(case, block):
        name = rule.name if found.place is None else f"{rule.name}/{found.place}"
        outcome = _outcome(found, block)
        yield Reason(name, outcome, found.text, found.value, found.bound, found.interval)


def _outcome(found: Finding, block: RuleParams) -> Outcome:
    if found.off:
        return "off"
    if found.holds:
        return "passed"
    return "warned" if found.mild or block.severity == "warn" else "refused"
