"""Rules of task classify: answers are labels, and better ones than a linear model gives."""

from collections.abc import Iterator

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import GainParams, OutsideParams
from tasks.promotion.results import RuleResult
from tasks.promotion.rules.baselines import gain_over
from tasks.promotion.rules.data_quality import is_number
from tasks.statistics.bootstrap import wilson
from tasks.task_types.classify import LINEAR


def inside_labels(evidence: ModelEvidence, params: OutsideParams) -> Iterator[RuleResult]:
    """Check that what the model says is one of the labels, which its clients count on."""
    bound = params.max_outside
    share = evidence.found("systems", evidence.system, evidence.mode, "outside_labels")
    answers = evidence.primary(evidence.system)
    if not is_number(share) or answers is None:
        text = f"evaluation's metrics hold no outside_labels of {evidence.system}"
        yield RuleResult(False, text, None, bound)
        return
    records = len(answers.asked)
    interval = wilson(round(share * records), records, confidence=evidence.params.confidence)
    text = (
        f"{share:.1%} of {evidence.system}'s answers are none of the labels; at most {bound:.1%} "
        "is asked for"
    )
    if share > bound:
        text += " (task.classify.constrained: true lets it say nothing else)"
    yield RuleResult(share <= bound, text, share, bound, interval)


def beats_linear(evidence: ModelEvidence, params: GainParams) -> Iterator[RuleResult]:
    """Check that the adapter gains on a linear model of words, which costs next to nothing."""
    yield gain_over(evidence, evidence.system, LINEAR, params)
