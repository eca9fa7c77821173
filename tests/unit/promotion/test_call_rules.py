"""What is decided of models that call tools: the turn's score, own margins, and calls that work."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.decision import decide, rules_of
from tasks.promotion.params import PromotionParams
from tasks.records.predictions import Prediction
from tasks.records.schema import ServedModel
from tasks.task_types.tools import TOOLS
from tests.builders.promotion_evidence import (
    PARAMS,
    SYSTEMS,
    Night,
    good_night,
    outcomes,
    with_rule,
)

OWN = dict.fromkeys(TOOLS.metrics, 0.5) | {
    "broken_call_share": 0.02,
    "unoffered_call_share": 0.01,
    "invalid_call_share": 0.03,
    "cut_outputs": 0.0,
}


def as_turn(row: Prediction) -> Prediction:
    """The same score as that of a turn, and none of the scores of answers."""
    scores = dict.fromkeys(("exact_match", "token_f1", "rouge_l", "chrf", "groundedness"), None)
    return replace(row, turn_score=row.token_f1, call_match=row.token_f1, calls=1, **scores)


def callers(model: ServedModel = "adapter") -> Night:
    """A night of models that call tools with nothing against it, whose champion is as good."""
    night = good_night(("closed_book",), model, records=100)
    found = night.tonight
    found.metrics["task"] = {"name": "tools"}
    found.metrics["systems"] = {system: {"closed_book": dict(OWN)} for system in SYSTEMS}
    found.metrics["abstention_shares"] = {}
    found.rows = [as_turn(row) for row in found.rows]
    assert night.champion is not None
    night.champion.rows = [as_turn(row) for row in night.champion.rows]
    return night


def verdict(
    folder: Path, night: Night, model: ServedModel = "adapter", params: PromotionParams = PARAMS
) -> Any:
    return decide(params, night.write(folder, model), model=model)


def say(night: Night, share: float | None, **more: Any) -> None:
    own = night.tonight.metrics["systems"]["adapter"]["closed_book"]
    own.update({"invalid_call_share": share} | more)


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_model_that_calls_well_is_promoted_by_its_turns(
    tmp_path: Path, model: ServedModel
) -> None:
    decision = verdict(tmp_path, callers(model), model)
    assert decision.refused == ()
    rules = {item.rule.partition("/")[0] for item in decision.reasons}
    assert rules == {rule.name for rule in rules_of(model, TOOLS)}
    [gain] = [item for item in decision.reasons if item.rule == "beats_base"]
    assert "turn_score over base" in gain.text
    [valid] = [item for item in decision.reasons if item.rule == "valid_calls"]
    assert (valid.outcome, valid.value, valid.bound) == ("passed", 0.03, 0.05)


def test_what_has_nothing_to_ask_says_why(tmp_path: Path) -> None:
    decision = verdict(tmp_path, callers())
    assert TOOLS.unasked is not None
    told = {item.rule: item.text for item in decision.reasons if item.outcome == "off"}
    for rule, why in TOOLS.unasked.items():
        assert told[rule] == why


def test_calls_that_nobody_could_carry_out_refuse(tmp_path: Path) -> None:
    night = callers()
    say(night, 0.25)
    decision = verdict(tmp_path / "r", night)
    assert outcomes(decision, "refused") == {"valid_calls"}
    [reason] = decision.refused
    assert "25.0% of adapter's calls are no JSON with a name and arguments" in reason.text
    warned = verdict(tmp_path / "w", night, params=with_rule("valid_calls", severity="warn"))
    assert "valid_calls" in outcomes(warned, "warned")


def test_a_model_that_calls_nothing_gives_the_rule_nothing_to_ask(tmp_path: Path) -> None:
    night = callers()
    say(night, None, invalid_call_share_reason="no call was tried")
    decision = verdict(tmp_path, night)
    assert decision.refused == ()
    assert "valid_calls" in outcomes(decision, "off")


def test_a_share_that_is_missing_refuses(tmp_path: Path) -> None:
    night = callers()
    del night.tonight.metrics["systems"]["adapter"]["closed_book"]["invalid_call_share"]
    assert outcomes(verdict(tmp_path, night), "refused") == {"valid_calls", "evidence"}


def test_the_loss_that_has_to_be_ruled_out_is_the_tasks_own(tmp_path: Path) -> None:
    """A loss of 0.07, which the margin of answers would let pass."""
    night = callers()
    assert night.champion is not None
    night.champion.rows = [replace(row, turn_score=row.score("turn_score") + 0.07)
                           for row in night.champion.rows]  # fmt: skip
    decision = verdict(tmp_path, night)
    assert "not_worse" in outcomes(decision, "refused")
    [found] = [item for item in decision.reasons if item.rule == "not_worse"]
    assert found.bound == -PARAMS.tasks.tools.margin
