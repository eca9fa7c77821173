"""What is decided of summarizers and of models that call tools: by a score and margins of their
own, and by a share of what they say that is to be small.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.decision import decide, rules_of
from tasks.promotion.params import PromotionParams
from tasks.records.predictions import Prediction
from tasks.records.schema import ServedModel
from tasks.task_types.definition import TaskType
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.tools import TOOLS
from tests.builders.promotion_evidence import (
    PARAMS,
    SYSTEMS,
    Night,
    good_night,
    outcomes,
    with_rule,
)

NO_WORDS = dict.fromkeys(("exact_match", "token_f1", "chrf", "groundedness"), None)


def as_summary(row: Prediction) -> Prediction:
    """The same score as ROUGE-L, which summaries have, and none of the scores of answers."""
    return replace(row, rouge_l=row.token_f1, rouge_1=0.5, rouge_2=0.4, compression=0.2, **NO_WORDS)


def as_turn(row: Prediction) -> Prediction:
    """The same score as that of a turn, and none of the scores of answers."""
    score = row.token_f1
    return replace(row, rouge_l=None, turn_score=score, call_match=score, calls=1, **NO_WORDS)


@dataclass(frozen=True)
class Case:
    """A task with a rule on a share, and how its rows are made from those of answers."""

    task: TaskType
    as_row: Callable[[Prediction], Prediction]
    rule: str
    share: str
    found: float
    bound: float
    told: str
    loss: float  # which the margin of answers would let pass

    def night(self, model: ServedModel = "adapter") -> Night:
        """A night with nothing against it, whose champion is as good."""
        night = good_night(("closed_book",), model, records=100)
        assert night.champion is not None
        metrics = night.tonight.metrics
        own = dict.fromkeys(self.task.metrics, 0.5) | {self.share: self.found, "cut_outputs": 0.0}
        own |= {"reference_unsupported_share": 0.02}
        metrics["task"] = {"name": self.task.name}
        metrics["systems"] = {system: {"closed_book": dict(own)} for system in SYSTEMS}
        metrics["abstention_shares"] = {}
        for side in (night.tonight, night.champion):
            side.rows = [self.as_row(row) for row in side.rows]
        return night

    def say(self, night: Night, share: float | None, **more: Any) -> None:
        own = night.tonight.metrics["systems"]["adapter"]["closed_book"]
        own.update({self.share: share} | more)


CASES = [
    Case(
        SUMMARIZE, as_summary, "faithful", "unsupported_share", 0.04, 0.1,
        "25.0% of the numbers and names in adapter's summaries are not in the texts (of the "
        "reference summaries, which are learned, 2.0%); at most 10.0% is asked for", 0.05,
    ),
    Case(
        TOOLS, as_turn, "valid_calls", "invalid_call_share", 0.03, 0.05,
        "25.0% of adapter's calls are no JSON with a name and arguments, or of no tool that it "
        "was offered; at most 5.0% is asked for", 0.07,
    ),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda case: case.task.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def verdict(
    folder: Path, night: Night, model: ServedModel = "adapter", params: PromotionParams = PARAMS
) -> Any:
    return decide(params, night.write(folder, model), model=model)


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_good_model_is_promoted_by_its_tasks_own_score(
    tmp_path: Path, case: Case, model: ServedModel
) -> None:
    decision = verdict(tmp_path, case.night(model), model)
    assert decision.refused == ()
    rules = {item.rule.partition("/")[0] for item in decision.reasons}
    assert rules == {rule.name for rule in rules_of(model, case.task)}
    [gain] = [item for item in decision.reasons if item.rule == "beats_base"]
    assert f"{case.task.metric} over base" in gain.text
    [own] = [item for item in decision.reasons if item.rule == case.rule]
    assert (own.outcome, own.value, own.bound) == ("passed", case.found, case.bound)


def test_what_has_nothing_to_ask_says_why(tmp_path: Path, case: Case) -> None:
    decision = verdict(tmp_path, case.night())
    assert case.task.unasked is not None
    told = {item.rule: item.text for item in decision.reasons if item.outcome == "off"}
    for rule, why in case.task.unasked.items():
        assert told[rule] == why


def test_a_share_above_its_bound_refuses_warns_and_can_be_off(tmp_path: Path, case: Case) -> None:
    night = case.night()
    case.say(night, 0.25)
    decision = verdict(tmp_path / "r", night)
    assert outcomes(decision, "refused") == {case.rule}
    assert decision.refused[0].text == case.told
    warned = verdict(tmp_path / "w", night, params=with_rule(case.rule, severity="warn"))
    assert warned.verdict == "promote"
    assert case.rule in outcomes(warned, "warned")
    off = verdict(tmp_path / "o", night, params=with_rule(case.rule, enabled=False))
    assert case.rule in outcomes(off, "off")


def test_a_share_of_nothing_gives_the_rule_nothing_to_ask(tmp_path: Path, case: Case) -> None:
    night = case.night()
    case.say(night, None, **{f"{case.share}_reason": "there is none"})
    decision = verdict(tmp_path, night)
    assert decision.refused == ()
    assert case.rule in outcomes(decision, "off")


def test_a_share_that_is_missing_refuses(tmp_path: Path, case: Case) -> None:
    night = case.night()
    del night.tonight.metrics["systems"]["adapter"]["closed_book"][case.share]
    assert outcomes(verdict(tmp_path, night), "refused") == {case.rule, "evidence"}


def test_the_loss_that_has_to_be_ruled_out_is_the_tasks_own(tmp_path: Path, case: Case) -> None:
    night, metric = case.night(), case.task.metric
    assert night.champion is not None
    assert metric is not None
    night.champion.rows = [
        replace(row, **{metric: row.score(metric) + case.loss}) for row in night.champion.rows
    ]
    decision = verdict(tmp_path, night)
    assert "not_worse" in outcomes(decision, "refused")
    [found] = [item for item in decision.reasons if item.rule == "not_worse"]
    assert found.bound == -getattr(PARAMS.tasks, case.task.name).margin
