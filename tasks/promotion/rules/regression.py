"""Rules that compare the challenger with the champion: no loss beyond a margin.

No version is compared on a test record that it may have learned, which one that was made before the
split changed has: those are left out, and the finding says of how many."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.promotion.answer_columns import AnswerColumns
from tasks.promotion.evidence import ChampionEvidence, ModelEvidence, paired, value_at
from tasks.promotion.params import MarginParams
from tasks.promotion.results import RuleResult, nothing_to_ask
from tasks.statistics.noninferiority import LossTestResult as Loss
from tasks.statistics.noninferiority import Pairs, records_needed

_NO_CHAMPION = "no other version is champion: the base is what is to be beaten"

_MORE = "raise evaluation.records, or take in more"

_AGAIN = (
    "score it again on tonight's split: `python -m tasks.evaluation.rescoring --help`, which the "
    "release's task `rescore` runs"
)

_BY_HAND = (
    "where the split was changed on purpose, `nightloom promote` moves a version by hand once, and "
    "the next ones are compared with it on all records"
)

# Fewer have no spread.
_LEAST_RECORDS = 2


def not_worse(evidence: ModelEvidence, params: MarginParams) -> Iterator[RuleResult]:
    """Check that the task score's loss against the champion is within the margins."""
    if evidence.champion is None:
        yield nothing_to_ask(_NO_CHAMPION)
        return
    yield from compare_scores(evidence, evidence.champion, params)


def compare_scores(
    evidence: ModelEvidence, other: ChampionEvidence, params: MarginParams
) -> Iterator[RuleResult]:
    """Return whether the loss of task score against another version is within the margins."""
    ours, theirs = evidence.primary(evidence.system), other.answers
    objection = scores_objection(evidence, other)
    pair = paired(ours, theirs)
    if objection or pair is None or ours is None:
        text = objection or f"{evidence.system}'s scores or {other.name}'s are not finite"
        yield RuleResult(False, text, None, -params.margin)
        return
    yield from _doubts(other)
    unlearned = ~learned_mask(ours, other)
    pairs = Pairs(
        (pair[0] - pair[1])[unlearned],
        np.ones(unlearned.sum()),
        np.array(ours.slices, dtype=object)[unlearned].tolist(),
    )
    measure = _Measure(evidence.metric, _MORE, len(unlearned))
    yield from _losses(evidence, other, pairs, params, measure)


def learned_mask(answers: AnswerColumns, other: ChampionEvidence) -> NDArray[np.bool_]:
    """Return which of the records that were asked another version may have learned."""
    learned = other.learned or frozenset()
    return np.array([record in learned for record, _, _ in answers.asked], dtype=bool)


def _doubts(other: ChampionEvidence) -> Iterator[RuleResult]:
    """Return a warning where a version is not what it was, or does not tell what it learned."""
    changed = value_at(other.metrics, "golden_objection")
    if changed:
        text = f"{other.name} answers otherwise by now than it did when it was made: {changed}"
        yield RuleResult(False, text, mild=True)
    if other.learned is None:
        text = (
            f"{other.name} does not tell which records it has learned, since an older version of "
            "Nightloom made it: if curation.salt or a split's share was changed since, it may have "
            "learned test records, and scores too well"
        )
        yield RuleResult(False, text, mild=True)


def not_less_likely(evidence: ModelEvidence, params: MarginParams) -> Iterator[RuleResult]:
    """Check that the reference answers are not less likely, in nats a token, beyond the margins."""
    if evidence.champion is None:
        yield nothing_to_ask(_NO_CHAMPION)
        return
    yield from compare_likelihoods(evidence, evidence.champion, params)


def compare_likelihoods(
    evidence: ModelEvidence, other: ChampionEvidence, params: MarginParams
) -> Iterator[RuleResult]:
    """Return whether the loss of likelihood against another version is within the margins."""
    ours, theirs = evidence.likely.rows, other.likely.rows
    objection = _measured_otherwise(evidence, other)
    learned = other.learned or frozenset()
    names = [name for name in sorted(ours) if name in theirs and name not in learned]
    values = [(ours[name].log_likelihood, theirs[name].log_likelihood) for name in names]
    if not objection and not np.isfinite(values).all():
        objection = f"log-likelihoods of {evidence.system} or {other.name} are not finite"
    if objection:
        yield RuleResult(False, objection, None, -params.margin)
        return
    pairs = Pairs(
        np.array([left - right for left, right in values]),
        # Where tokenizers differ, tonight's tokens are what both are counted by.
        np.array([float(ours[name].tokens) for name in names]),
        [ours[name].slice for name in names],
    )
    measure = _Measure(
        "nats a token of the references' log-likelihood",
        "take in more: the test split is small",
        len(ours),
    )
    yield from _losses(evidence, other, pairs, params, measure)


def scores_objection(evidence: ModelEvidence, champion: ChampionEvidence) -> str | None:
    """Return why another version's scores cannot be compared, None where they can."""
    if champion.unscored is not None:
        return _unscored(evidence, champion)
    ours, theirs = evidence.primary(evidence.system), champion.answers
    if ours is None or theirs is None:
        who = evidence.system if ours is None else champion.name
        return f"{who} has no answers in mode {evidence.mode}, so nothing tells whether it is worse"
    if ours.asked != theirs.asked:
        shared = len(set(ours.asked) & set(theirs.asked))
        return _other_split(
            champion, len(theirs.asked), shared, len(ours.asked), ours.sha256, theirs.sha256
        )
    return _other_scoring(evidence, champion)


def _measured_otherwise(evidence: ModelEvidence, champion: ChampionEvidence) -> str | None:
    """Return why the two cannot be compared, None where they can."""
    if champion.unscored is not None:
        return _unscored(evidence, champion)
    ours, theirs = evidence.likely.rows, champion.likely.rows
    hashes = (evidence.likely.sha256, champion.likely.sha256)
    if not ours or not theirs:
        who = champion.name if ours else evidence.system
        return f"{who} has no log-likelihoods, so nothing tells whether references are less likely"
    if ours.keys() != theirs.keys() or hashes[0] != hashes[1] or hashes[0] is None:
        shared = len(ours.keys() & theirs.keys())
        return _other_split(champion, len(theirs), shared, len(ours), *map(str, hashes))
    return _other_scoring(evidence, champion)


def _unscored(evidence: ModelEvidence, champion: ChampionEvidence) -> str:
    return (
        f"{champion.name} could not be scored on tonight's split, so nothing tells whether "
        f"{evidence.system} is worse: {champion.unscored}"
    )


def _other_split(
    champion: ChampionEvidence, size: int, shared: int, tonight: int, ours: str, theirs: str
) -> str:
    return (
        f"{champion.name} was scored on another test split: {shared} of its {size} records are "
        f"among tonight's {tonight} with the same id, question and reference (split "
        f"{theirs[:12]}, tonight's {ours[:12]}); scores of other questions cannot be compared; "
        f"{_AGAIN}"
    )


def _other_scoring(evidence: ModelEvidence, champion: ChampionEvidence) -> str | None:
    ours, theirs = (
        value_at(metrics, "test_split", "scoring_sha256")
        for metrics in (evidence.metrics, champion.metrics)
    )
    if ours == theirs and ours is not None:
        return None
    return (
        f"{champion.name} was scored by other code or params (scoring {str(theirs)[:12]}, "
        f"tonight's {str(ours)[:12]}), so its scores mean something else; {_AGAIN}"
    )


@dataclass(frozen=True)
class _Measure:
    """What is compared: its unit, of how many records, and what to do where these are too few."""

    unit: str
    remedy: str
    records: int


def _losses(
    evidence: ModelEvidence,
    champion: ChampionEvidence,
    pairs: Pairs,
    params: MarginParams,
    measure: _Measure,
) -> Iterator[RuleResult]:
    """Return what all records say, then every slice where there are several."""
    name, left = f"{evidence.system} against {champion.name}", len(pairs.parts)
    if left < measure.records:
        name += f", on the {left} of {measure.records} test records that it has not learned"
        measure = replace(measure, remedy=_BY_HAND)
    if left < _LEAST_RECORDS:
        text = (
            f"{name}: a version is not compared on what it has learned, so nothing tells whether "
            f"{evidence.system} is worse; {_BY_HAND}"
        )
        yield RuleResult(False, text, None, -params.margin)
        return
    yield _loss_result(name, evidence.losses.whole(pairs, params.margin), evidence, measure)
    if len(set(pairs.slices)) > 1:
        for label, loss in evidence.losses.slices(pairs, params.slice_margin).items():
            place = label or "(none)"
            yield _loss_result(f"{name} in slice {place}", loss, evidence, measure, place=place)


def _loss_result(
    name: str, loss: Loss, evidence: ModelEvidence, measure: _Measure, place: str | None = None
) -> RuleResult:
    interval, confidence = loss.interval, evidence.params.confidence
    text = (
        f"{name}: {interval.value:+.3f} {measure.unit} over {loss.records} records "
        f"({interval.low:+.3f} to {interval.high:+.3f}, each end a {confidence:.0%} bound); "
        f"{_loss_in_words(loss, confidence, measure)}"
    )
    # What a small slice cannot show is told; what it does show counts.
    mild = place is not None and loss.conclusion == "underpowered"
    holds = loss.conclusion == "not_worse"
    return RuleResult(holds, text, interval.value, -loss.margin, interval, place, mild)


def _loss_in_words(loss: Loss, confidence: float, measure: _Measure) -> str:
    """Return where the loss lies, in words."""
    margin = f"{loss.margin:.2f}"
    if loss.conclusion == "not_worse":
        return f"a loss of {margin} is ruled out ({_p_value(loss.p_loss, loss)})"
    if loss.conclusion == "worse":
        return f"the loss is more than {margin} ({_p_value(loss.p_no_loss, loss)})"
    if loss.conclusion == "unproven":
        return f"a loss of {margin} cannot be ruled out ({_p_value(loss.p_loss, loss)})"
    return (
        f"so few records cannot rule out a loss of {margin}, which takes about "
        f"{records_needed(loss, confidence)}: {measure.remedy}"
    )


def _p_value(value: float, loss: Loss) -> str:
    shown = f"p {value:.3f}" if value >= 0.001 else "p < 0.001"
    return shown if loss.family == 1 else f"{shown}, corrected over {loss.family} slices"
