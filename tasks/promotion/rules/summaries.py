"""The rule of task summarize: a summary brings in no number and no name of its own."""

from collections.abc import Iterator

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import FaithfulParams
from tasks.promotion.results import RuleResult
from tasks.promotion.rules.data_quality import is_number
from tasks.promotion.rules.shares import share_at_most

_SHARE = "unsupported_share"


def faithful(evidence: ModelEvidence, params: FaithfulParams) -> Iterator[RuleResult]:
    """Check that few of the numbers and names of summaries are missing from their texts."""
    learned = evidence.found("systems", evidence.system, evidence.mode, f"reference_{_SHARE}")

    def tell(share: float) -> str:
        text = f"the numbers and names in {evidence.system}'s summaries are not in the texts"
        if share > params.max_unsupported and is_number(learned):
            text += f" (of the reference summaries, which are learned, {learned:.1%})"
        return text

    yield share_at_most(evidence, _SHARE, params.max_unsupported, tell)
