"""The rule of task tools: calls can be carried out."""

from collections.abc import Iterator

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import ValidCallsParams
from tasks.promotion.results import RuleResult
from tasks.promotion.rules.shares import share_at_most


def valid_calls(evidence: ModelEvidence, params: ValidCallsParams) -> Iterator[RuleResult]:
    """Check that few calls are no JSON, or of a tool that is not offered."""

    def tell(_: float) -> str:
        return (
            f"{evidence.system}'s calls are no JSON with a name and arguments, or of no tool that "
            "it was offered"
        )

    yield share_at_most(evidence, "invalid_call_share", params.max_invalid, tell)
