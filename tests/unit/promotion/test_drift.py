"""Losses that add up night by night are stopped, luck sets no bound, and no one is scored on what
it has learned."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from tasks.promotion.answer_columns import AnswerColumns
from tasks.promotion.decision import Decision
from tasks.promotion.evidence import ChampionEvidence, ModelEvidence, SplitLikelihoods
from tasks.promotion.params import PromotionParams
from tasks.promotion.rules.drift import choose_anchor, not_worse_than_best
from tasks.promotion.rules.regression import not_worse
from tasks.statistics.bootstrap import Bootstrap
from tasks.task_types.answer import ANSWER
from tests.builders.promotion_evidence import (
    PARAMS,
    SPLIT,
    Night,
    decided,
    outcomes,
    with_earlier,
    with_rule,
)

RECORDS = 300
ASKED = tuple((f"r{number:03}", f"q{number}", f"a{number}") for number in range(RECORDS))


def answers(scores: Sequence[float]) -> AnswerColumns:
    """Answers of these scores, one slice."""
    return AnswerColumns(
        system="adapter",
        mode="retrieved",
        asked=ASKED[: len(scores)],
        slices=("all",) * len(scores),
        score=np.array(scores, float),
        is_cut=np.zeros(len(scores), bool),
        is_broken=np.zeros(len(scores), bool),
        groundedness=np.ones(len(scores)),
        is_grounded=np.ones(len(scores), bool),
    )


def version(name: str, scores: Sequence[float], learned: Any = frozenset()) -> ChampionEvidence:
    nothing = SplitLikelihoods({}, None)
    return ChampionEvidence(name, {"test_split": SPLIT}, answers(scores), nothing, learned)


def evidence(
    candidate: Sequence[float],
    champion: ChampionEvidence | None,
    *earlier: ChampionEvidence,
    params: PromotionParams = PARAMS,
) -> ModelEvidence:
    """As much of a night's evidence as scores are compared by."""
    nothing: Any = MappingProxyType({})
    return ModelEvidence(
        model="adapter", task=ANSWER, system="adapter", offered="student", mode="retrieved",
        has_documents=True,
        validation={}, curation={}, metrics={"test_split": SPLIT}, packaging={}, parity=nothing,
        bundle_sha256="", speed=None, shadow=None,
        answers={("adapter", "retrieved"): answers(candidate)},
        likely=SplitLikelihoods({}, None), champion=champion, earlier=earlier, unscored={},
        use=None, params=params, bootstrap=Bootstrap(params.resamples, params.seed),
    )  # fmt: skip


def refused(found: ModelEvidence) -> bool:
    """Whether the champion's rule or the anchor's, where it is on, has something against it."""
    rules = found.params.rules
    results = [*not_worse(found, rules.not_worse)]
    if rules.not_worse_than_best.enabled:
        results += not_worse_than_best(found, rules.not_worse_than_best)
    return any(not (item.holds or item.mild) for item in results)


def losing_nights(params: PromotionParams, seed: int, nights: int) -> float:
    """How much was lost once so many nights lost 0.04 each, where they were not refused.

    A night's split is a new one, on which all versions have right and wrong answers; what one
    gets right, a worse one gets wrong with the chance that it is worse by.
    """
    rng = np.random.default_rng(seed)
    champions, losses = [0.0], []
    for _ in range(nights):
        level = rng.random(RECORDS)  # of difficulty: a version is right below its own level
        scores = {
            lost: (level < 0.85 - lost).astype(float) for lost in (*champions, champions[-1] + 0.04)
        }
        noisy = {lost: abs(row - (rng.random(RECORDS) < 0.02)) for lost, row in scores.items()}
        candidate = champions[-1] + 0.04
        held = [version(f"version {place}", noisy[lost]) for place, lost in enumerate(champions)]
        found = evidence(noisy[candidate], held[-1], *reversed(held[:-1]), params=params)
        if not refused(found):
            champions.append(candidate)
        losses.append(champions[-1])
    return losses[-1]


@pytest.mark.parametrize("seed", range(5))
def test_nights_that_each_lose_a_little_are_stopped_before_they_have_lost_a_fifth(
    seed: int,
) -> None:
    assert losing_nights(PARAMS, seed, nights=12) < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_without_the_rule_nothing_stops_them(seed: int) -> None:
    off = with_rule("not_worse_than_best", enabled=False)
    assert losing_nights(off, seed, nights=12) >= 0.2


def test_luck_does_not_win_the_anchor() -> None:
    """Of a higher mean that a few records make, and a lower one that all do, the latter bounds."""
    steady = version("steady", [0.80] * RECORDS)
    lucky = version("lucky", [1.0] * 245 + [0.0] * 55)  # 0.817
    assert lucky.answers is not None
    assert steady.answers is not None
    assert lucky.answers.score.mean() > steady.answers.score.mean()
    found = choose_anchor(evidence([0.8] * RECORDS, None, lucky, steady))
    assert found.anchor is steady
    assert found.low == pytest.approx(0.80)


@pytest.mark.slow
def test_a_candidate_as_good_as_ten_lucky_champions_is_hardly_ever_refused() -> None:
    rng, count = np.random.default_rng(3), 0
    for _ in range(60):
        right = rng.random(RECORDS) < 0.85

        def again(right: Any = right) -> Any:  # the same quality, other answers now and then
            return (right ^ (rng.random(RECORDS) < 0.04)).astype(float)

        held = [version(f"version {place}", again()) for place in range(10)]
        count += refused(evidence(again(), held[0], *held[1:]))
    assert count <= 1


def test_where_the_anchor_is_the_champion_nothing_is_done_twice_and_it_says_so() -> None:
    champion, before = version("production:3", [0.8] * 40), version("version 2", [0.7] * 40)
    found = evidence([0.8] * 40, champion, before)
    [result] = not_worse_than_best(found, PARAMS.rules.not_worse_than_best)
    assert result.off
    assert (
        "the anchor is the champion production:3 itself (best of 2 champions in 30" in result.text
    )
    assert result.text.endswith("not_worse compares with it")
    alone = with_rule("not_worse", enabled=False)
    [result, *_] = not_worse_than_best(
        evidence([0.6] * 40, champion, before, params=alone), alone.rules.not_worse_than_best
    )
    assert not result.holds


def test_a_candidate_that_lost_against_the_best_of_many_nights_is_refused(tmp_path: Path) -> None:
    decision = decided(tmp_path, with_earlier(scores=0.2))
    assert outcomes(decision, "refused") == {"not_worse_than_best"}
    text = decision.refused[0].text
    assert text.startswith(
        "adapter against version 2 (best of 2 champions in 30 nights, token_f1 at"
    )
    assert "the loss is more than 0.15" in text


def test_what_could_not_be_scored_is_told_and_refuses_nothing(tmp_path: Path) -> None:
    def gone(night: Night) -> None:
        with_earlier(scores=0.5)(night)
        night.earlier["version 2"].metrics["test_split"]["scoring_sha256"] = "f" * 64
        night.unscored["version 1"] = "its artifacts were deleted"

    decision = decided(tmp_path, gone)
    assert decision.verdict == "promote"
    warned = [item.text for item in decision.reasons if item.outcome == "warned"]
    assert warned[0] == "version 1 could not be the anchor: its artifacts were deleted"
    assert "version 2 could not be the anchor: version 2 was scored by other code" in warned[1]
    assert len(warned) == 2


def learned(scores: float, records: int | None) -> Any:
    """A champion that may have learned the first records, and answers these better by so much."""

    def apply(night: Night) -> None:
        assert night.champion is not None
        ids = None if records is None else [f"r{number:02}" for number in range(records)]
        night.champion.metrics["learned"] = ids
        night.champion.rows = [
            replace(row, token_f1=row.token_f1 + (scores if row.record in (ids or ()) else 0.0))
            for row in night.champion.rows
        ]

    return apply


def not_worse_row(decision: Decision, rule: str = "not_worse") -> Any:
    return next(item for item in decision.reasons if item.rule == rule)


def test_a_champion_is_compared_on_the_records_that_it_has_not_learned(tmp_path: Path) -> None:
    decision = decided(tmp_path, learned(0.2, 8))
    assert decision.verdict == "promote"
    for rule in ("not_worse", "not_less_likely"):
        assert (
            "on the 32 of 40 test records that it has not learned"
            in not_worse_row(decision, rule).text
        )
    (tmp_path / "all").mkdir()

    def hidden(night: Night) -> None:
        learned(0.2, 8)(night)
        assert night.champion is not None
        night.champion.metrics["learned"] = []

    found = not_worse_row(decided(tmp_path / "all", hidden))
    assert found.value == pytest.approx(not_worse_row(decision).value - 0.04, abs=0.005)


@pytest.mark.parametrize(("records", "text"), [(40, "on the 0 of 40"), (30, "so few records")])
def test_a_champion_that_learned_too_many_test_records_is_refused_by_name(
    tmp_path: Path, records: int, text: str
) -> None:
    decision = decided(tmp_path, learned(0.0, records))
    assert {"not_worse"} <= outcomes(decision, "refused")
    found = not_worse_row(decision)
    assert "production:3" in found.text
    assert text in found.text
    assert "`nightloom promote` moves a version by hand once" in found.text


def test_a_champion_that_does_not_tell_what_it_learned_warns(tmp_path: Path) -> None:
    decision = decided(tmp_path, learned(0.0, None))
    assert decision.verdict == "promote"
    [warned] = [item for item in decision.reasons if item.outcome == "warned"]
    assert warned.rule == "not_worse"
    assert "production:3 does not tell which records it has learned" in warned.text


def test_a_version_that_learned_the_test_records_is_no_anchor() -> None:
    knows = version("version 1", [1.0] * 40, frozenset(name for name, _, _ in ASKED[:30]))
    found = choose_anchor(evidence([0.5] * 40, version("production:3", [0.5] * 40), knows))
    assert found.anchor is not None
    assert found.anchor.name == "production:3"
    assert "may have learned 30 of the 40 test records" in found.left_out["version 1"]
