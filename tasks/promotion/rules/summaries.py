"""The rule of task summarize: a summary brings in no number and no name of its own."""

from collections.abc import Iterator

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import FaithfulParams
from tasks.promotion.results import RuleResult, nothing_to_ask
from tasks.promotion.rules.data_quality import is_number


def faithful(evidence: ModelEvidence, params: FaithfulParams) -> Iterator[RuleResult]:
    """Check that few of the numbers and names of summaries are missing from their texts."""
    bound, name = params.max_unsupported, "unsupported_share"
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
        f"{share:.1%} of the numbers and names in {evidence.system}'s summaries are not in the "
        f"texts; at most {bound:.1%} is asked for"
    )
    learned = found.get(f"reference_{name}")
    if share > bound and is_number(learned):
        text += f" (of the reference summaries, which are learned, {learned:.1%})"
    yield RuleResult(share <= bound, text, share, bound)
