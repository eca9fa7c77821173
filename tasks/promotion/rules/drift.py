"""Rules against losses that add up night by night: the challenger beside the best of many nights.

Each night's loss may be smaller than the margin against the champion. So the candidate is also held
against the anchor: of the versions that were champion in the last `anchor_nights`, the one whose
mean score on tonight's split has the highest lower bound. A version that was lucky once has no such
bound on another split; one whose scores spread has a lower one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tasks.promotion.evidence import ChampionEvidence, ModelEvidence
from tasks.promotion.params import MarginParams
from tasks.promotion.results import RuleResult, nothing_to_ask
from tasks.promotion.rules.regression import (
    compare_likelihoods,
    compare_scores,
    learned_mask,
    scores_objection,
)
from tasks.statistics.noninferiority import least_records

_Comparison = Callable[[ModelEvidence, ChampionEvidence, MarginParams], Iterator[RuleResult]]


def not_worse_than_best(evidence: ModelEvidence, params: MarginParams) -> Iterator[RuleResult]:
    """Check that the task score's loss against the anchor is within the margins."""
    found = choose_anchor(evidence)
    for name, why in found.left_out.items():
        yield RuleResult(False, f"{name} could not be the anchor: {why}", mild=True)
    yield from _against(found, evidence, params, "not_worse", compare_scores)


def not_less_likely_than_best(
    evidence: ModelEvidence, params: MarginParams
) -> Iterator[RuleResult]:
    """Check that references are not less likely than the anchor finds them, beyond the margins."""
    found = choose_anchor(evidence)
    yield from _against(found, evidence, params, "not_less_likely", compare_likelihoods)


@dataclass(frozen=True)
class AnchorChoice:
    """The anchor, None without a champion that can be compared, and why others could not be it.

    `low` is the lower bound of its mean score, `among` counts the versions that it was chosen from.
    """

    anchor: ChampionEvidence | None
    low: float
    among: int
    left_out: Mapping[str, str]


def choose_anchor(evidence: ModelEvidence) -> AnchorChoice:
    """Choose the anchor; of equal ones the champion, then the latest."""
    left_out = dict(evidence.unscored)
    bounds: list[tuple[float, ChampionEvidence]] = []
    for one in (evidence.champion, *evidence.earlier):
        if one is None:
            continue
        objection = scores_objection(evidence, one) or _own_objection(evidence, one)
        if objection is None:
            bounds.append((_lower_bound(evidence, one), one))
        elif one is not evidence.champion:  # of which not_worse tells it
            left_out[one.name] = objection
    low, anchor = max(bounds, key=lambda item: item[0], default=(0.0, None))
    return AnchorChoice(anchor, low, len(bounds), left_out)


def _lower_bound(evidence: ModelEvidence, version: ChampionEvidence) -> float:
    """Return the one-sided lower bound of a version's mean score, of what it has not learned."""
    assert version.answers is not None
    scores = version.answers.score[~learned_mask(version.answers, version)]
    drawn = evidence.bootstrap.ratios(scores[:, None], np.ones((len(scores), 1)))
    return float(np.quantile(drawn, 1 - evidence.params.confidence))


def _own_objection(evidence: ModelEvidence, version: ChampionEvidence) -> str | None:
    """Return why a version's own scores have no bound that counts: lost, or learned too many of."""
    assert version.answers is not None
    if not np.isfinite(version.answers.score).all():
        return "its scores are not finite"
    learned = learned_mask(version.answers, version)
    margin = evidence.params.rules.not_worse_than_best.margin
    left, needed = int((~learned).sum()), least_records(margin, evidence.params.confidence)
    if not learned.any() or left >= needed:
        return None
    return (
        f"it may have learned {int(learned.sum())} of the {len(learned)} test records that were "
        f"asked, since the split changed; {left} are left, and it takes {needed}"
    )


def _against(
    found: AnchorChoice,
    evidence: ModelEvidence,
    params: MarginParams,
    champions_rule: str,
    compare: _Comparison,
) -> Iterator[RuleResult]:
    """Compare with the anchor, unless the rule on the champion does."""
    nights = evidence.params.anchor_nights
    if found.anchor is None:
        some = evidence.champion is not None or evidence.earlier or evidence.unscored
        text = "can be compared on tonight's split" if some else "is there beside the candidate"
        yield nothing_to_ask(f"no champion of the last {nights} nights {text}")
        return
    among = "the only champion" if found.among == 1 else f"best of {found.among} champions"
    best = f"{among} in {nights} nights, {evidence.metric} at least {found.low:.3f}"
    if found.anchor is evidence.champion and _is_asked(evidence, champions_rule):
        text = f"the anchor is the champion {found.anchor.name} itself ({best}): {champions_rule} "
        yield nothing_to_ask(f"{text}compares with it")
        return
    yield from compare(
        evidence, replace(found.anchor, name=f"{found.anchor.name} ({best})"), params
    )


def _is_asked(evidence: ModelEvidence, rule: str) -> bool:
    return bool(getattr(evidence.params.rules, rule).enabled)
