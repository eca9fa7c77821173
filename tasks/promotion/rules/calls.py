"""The rule of task tools: calls can be carried out."""

from collections.abc import Iterator

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import ValidCallsParams
from tasks.promotion.results import RuleResult, nothing_to_ask
from tasks.promotion.rules.data_quality import is_number


def valid_calls(evidence: ModelEvidence, params: ValidCallsParams) -> Iterator[RuleResult]:
    """Check that few calls are no JSON, or of a tool that is not offered."""
    bound, name = params.max_invalid, "invalid_call_share"
    found = evidence.found("systems", evidence.system, evidence.mode) or {}
    share = found.get(name)
    if share is None and found.get(f"{name}_reason"):
        yield nothing_to_ask(f"{evidence.system}: {found[f'{name}_reason']}")
        return
    if share is None or not is_number(share):
        text = f"evaluation's metrics hold no {name} of {evidence.system}"
        yield RuleResult(False, text, None, bound)
        return
    text = (
        f"{share:.1%} of {evidence.system}'s calls are no JSON with a name and arguments, or of no "
        f"tool that it was offered; at most {bound:.1%} is asked for"
    )
    yield RuleResult(share <= bound, text, share, bound)
