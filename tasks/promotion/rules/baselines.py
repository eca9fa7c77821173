"""Rules that compare a model with the base, and a student with the adapter and its control."""

from collections.abc import Iterator

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import GainParams, RuleParams, ScoreRetentionParams
from tasks.promotion.results import RuleResult
from tasks.statistics.bootstrap import Interval


def beats_base(evidence: ModelEvidence, params: GainParams) -> Iterator[RuleResult]:
    """Check that the model gains on the base: the whole interval lies above the bound."""
    yield gain_over(evidence, evidence.system, "base", params)


def gain_over_control(evidence: ModelEvidence, params: GainParams) -> Iterator[RuleResult]:
    """Check that the student gains on its control, which learned the same without a teacher."""
    finding = gain_over(evidence, "student", "control", params)
    if finding.holds or evidence.offered == "student":
        yield finding
    else:
        text = f"distillation did not pay, so the control is offered: {finding.text}"
        yield RuleResult(False, text, finding.value, finding.bound, finding.interval)


def gain_over(evidence: ModelEvidence, left: str, right: str, params: GainParams) -> RuleResult:
    """Return whether the whole interval of the gain of one system over another is above a bound."""
    bound = params.min_gain
    pair = evidence.paired(left, right)
    if pair is None:
        text = f"{left} and {right} share no records with finite scores in mode {evidence.mode}"
        return RuleResult(False, text, None, bound)
    gain = evidence.ratio(pair[0] - pair[1])
    holds = gain.low > bound
    text = (
        f"{left} gains {gain.value:+.3f} {evidence.metric} over {right} in mode {evidence.mode}; "
        f"the {evidence.params.confidence:.0%} interval {gain.low:+.3f} to {gain.high:+.3f} "
        f"{'lies' if holds else 'does not lie'} above {bound:+.3f}"
    )
    return RuleResult(holds, text, gain.value, bound, gain)


def retention(evidence: ModelEvidence, params: ScoreRetentionParams) -> Iterator[RuleResult]:
    """Check that the offered student keeps enough of the adapter's mean score."""
    bound = params.min_retention
    pair = evidence.paired(evidence.offered, "adapter")
    if pair is None or pair[1].sum() <= 0:
        text = f"the adapter scores nothing in mode {evidence.mode}, so there is nothing to retain"
        if pair is None:
            text = f"{evidence.offered} and adapter share no records with finite scores"
        yield RuleResult(False, text, None, bound)
        return
    kept: Interval = evidence.ratio(*pair)
    text = (
        f"{evidence.offered} keeps {kept.value:.0%} of the adapter's {evidence.metric} in mode "
        f"{evidence.mode} ({evidence.params.confidence:.0%} interval {kept.low:.0%} to "
        f"{kept.high:.0%}); at least {bound:.0%} is asked for"
    )
    yield RuleResult(kept.value >= bound, text, kept.value, bound, kept)


def student_keeps(evidence: ModelEvidence, _: RuleParams) -> Iterator[RuleResult]:
    """Return whether evaluation found a student that keeps as much as it asks for."""
    name, enough, bound = (
        evidence.found("offered", part) for part in ("name", "keeps_enough", "keeps_at_least")
    )
    kept = evidence.found("offered", "offered_retention", "value")
    text = f"{name} is the smallest student that keeps as much as evaluation.student_keeps asks"
    if enough is not True:
        text = f"no student keeps as much as evaluation.student_keeps asks; {name} is best"
    yield RuleResult(enough is True, text, kept, bound)
