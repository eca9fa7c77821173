"""Shares of what a model says that evaluation counted, and that are to be small."""

from collections.abc import Callable

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.results import RuleResult, nothing_to_ask
from tasks.promotion.rules.data_quality import is_number


def share_at_most(
    evidence: ModelEvidence, name: str, bound: float, tell: Callable[[float], str]
) -> RuleResult:
    """Return whether a share of the system's own metrics is within its bound.

    `tell` says what the share is of. Nothing is asked where evaluation says why there is none, and
    a share that is missing without a reason refuses.
    """
    found = evidence.found("systems", evidence.system, evidence.mode) or {}
    share, why = found.get(name), found.get(f"{name}_reason")
    if share is None and why:
        return nothing_to_ask(f"{evidence.system}: {why}")
    if share is None or not is_number(share):
        text = f"evaluation's metrics hold no {name} of {evidence.system}"
        return RuleResult(False, text, None, bound)
    text = f"{share:.1%} of {tell(share)}; at most {bound:.1%} is asked for"
    return RuleResult(share <= bound, text, share, bound)
