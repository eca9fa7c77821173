"""Rules that compare a model with the base, and a student with the adapter and its control."""

from collections.abc import Iterator

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import GainParams, RuleParams, ScoreRetentionParams
from tasks.promotion.results import RuleResult
from tasks.statistics.bootstrap import Interval


def beats_base(case: ModelEvidence, params: GainParams) -> Iterator[RuleResult]:
    """The model gains on the base, and the whole interval of its gain lies above the bound."""
    yield _gain(case, case.system, "base", params)


def gain_over_twin(case: ModelEvidence, params: GainParams) -> Iterator[RuleResult]:
    """The student gains on its twin, which learned the same without a teacher."""
    finding = _gain(case, "student", "twin", params)
    if finding.holds or case.offered == "student":
        yield finding
    else:
        text = f"distillation did not pay, so the twin is offered: {finding.text}"
        yield RuleResult(False, text, finding.value, finding.bound, finding.interval)


def _gain(case: ModelEvidence, left: str, right: str, params: GainParams) -> RuleResult:
    bound = params.min_gain
    pair = case.paired(left, right)
    if pair is None:
        text = f"{left} and {right} share no records with finite scores in mode {case.mode}"
        return RuleResult(False, text, None, bound)
    gain = case.ratio(pair[0] - pair[1])
    holds = gain.low > bound
    text = (
        f"{left} gains {gain.value:+.3f} {case.metric} over {right} in mode {case.mode}; the "
        f"{case.params.confidence:.0%} interval {gain.low:+.3f} to {gain.high:+.3f} "
        f"{'lies' if holds else 'does not lie'} above {bound:+.3f}"
    )
    return RuleResult(holds, text, gain.value, bound, gain)


def retention(case: ModelEvidence, params: ScoreRetentionParams) -> Iterator[RuleResult]:
    """The offered student keeps enough of the adapter's mean score."""
    bound = params.min_retention
    pair = case.paired(case.offered, "adapter")
    if pair is None or pair[1].sum() <= 0:
        text = f"the adapter scores nothing in mode {case.mode}, so there is nothing to retain"
        if pair is None:
            text = f"{case.offered} and adapter share no records with finite scores"
        yield RuleResult(False, text, None, bound)
        return
    kept: Interval = case.ratio(*pair)
    text = (
        f"{case.offered} keeps {kept.value:.0%} of the adapter's {case.metric} in mode {case.mode} "
        f"({case.params.confidence:.0%} interval {kept.low:.0%} to {kept.high:.0%}); at least "
        f"{bound:.0%} is asked for"
    )
    yield RuleResult(kept.value >= bound, text, kept.value, bound, kept)


def student_keeps(case: ModelEvidence, _: RuleParams) -> Iterator[RuleResult]:
    """Whether evaluation found a student that keeps as much as it asks for."""
    name, enough, bound = (
        case.found("offered", part) for part in ("name", "keeps_enough", "keeps_at_least")
    )
    kept = case.found("offered", "offered_retention", "value")
    text = f"{name} is the smallest student that keeps as much as evaluation.student_keeps asks"
    if enough is not True:
        text = f"no student keeps as much as evaluation.student_keeps asks; {name} is best"
    yield RuleResult(enough is True, text, kept, bound)
