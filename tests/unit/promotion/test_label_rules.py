"""What is decided of classifiers: accuracy, its own margins, and two rules that only they have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.decision import RULES, decide, rules_of
from tasks.promotion.params import PromotionParams
from tasks.records.predictions import Prediction
from tasks.records.schema import ServedModel
from tasks.task_types.answer import ANSWER
from tasks.task_types.classify import CLASSIFY, LINEAR
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

RECORDS = 400
# How many of ten records each system gets right.
RIGHT = {"base": 1, "adapter": 9, "student": 8, "control": 6, LINEAR: 7}
OWN = dict.fromkeys(CLASSIFY.metrics, 0.5) | {"outside_labels": 0.0}


def as_label(row: Prediction, right: int, system: str | None = None) -> Prediction:
    number = int(row.record[1:])
    is_right = number % 10 < right
    return replace(
        row,
        system=system or row.system,
        output=row.reference if is_right else "another",
        accuracy=float(is_right),
        probability=0.8,
        **dict.fromkeys(("exact_match", "token_f1", "rouge_l", "chrf", "groundedness"), None),
    )


def classifiers(model: ServedModel) -> Night:
    """A night of classifiers with nothing against it, whose champion is as good."""
    night = good_night(("closed_book",), model, records=RECORDS)
    found = night.tonight
    found.metrics["task"] = CLASSIFY_TASK
    found.metrics["systems"] = {system: {"closed_book": dict(OWN)} for system in (*SYSTEMS, LINEAR)}
    found.metrics["abstention_shares"] = {}
    base = [row for row in found.rows if row.system == "base"]
    found.rows = [as_label(row, RIGHT[row.system]) for row in found.rows]
    found.rows += [as_label(row, RIGHT[LINEAR], LINEAR) for row in base]
    assert night.champion is not None
    night.champion.rows = [row for row in found.rows if row.system == model]
    return night


CLASSIFY_TASK = {"name": "classify", "labels": 3, "constrained": True}


def verdict(
    folder: Path, night: Night, model: ServedModel = "adapter", params: PromotionParams = PARAMS
) -> Any:
    return decide(params, night.write(folder, model), model=model)


def got_right(night: Night, system: str, right: int, *, champion: bool = False) -> None:
    """Let a system get so many of ten records right."""
    side = night.champion if champion else night.tonight
    assert side is not None
    side.rows = [as_label(row, right) if row.system == system else row for row in side.rows]


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_good_classifier_is_promoted_by_its_accuracy(tmp_path: Path, model: ServedModel) -> None:
    decision = verdict(tmp_path, classifiers(model), model)
    assert decision.refused == ()
    rules = {item.rule.partition("/")[0] for item in decision.reasons}
    assert rules == {rule.name for rule in rules_of(model, CLASSIFY)}
    [gain] = [item for item in decision.reasons if item.rule == "beats_base"]
    assert "accuracy over base" in gain.text
    off = outcomes(decision, "off")
    assert {"groundedness", "abstention"} <= off
    assert ("forgetting" in off) == (model == "adapter")


def test_rules_of_classifiers_are_not_asked_of_answers() -> None:
    asked = {rule.name for model in ("adapter", "student") for rule in rules_of(model, ANSWER)}
    assert asked == {rule.name for rule in RULES} - CLASSIFY.rules - SUMMARIZE.rules - TOOLS.rules


def outside(night: Night) -> None:
    night.tonight.metrics["systems"]["adapter"]["closed_book"]["outside_labels"] = 0.03


def no_share(night: Night) -> None:
    del night.tonight.metrics["systems"]["adapter"]["closed_book"]["outside_labels"]


def no_better_than_words(night: Night) -> None:
    got_right(night, LINEAR, 9)


def no_linear(night: Night) -> None:
    night.tonight.rows = [row for row in night.tonight.rows if row.system != LINEAR]


@pytest.mark.parametrize(
    ("rule", "spoil", "told"),
    [
        ("inside_labels", outside, "3.0% of adapter's answers are none of the labels"),
        ("beats_linear", no_better_than_words, "does not lie above"),
        ("beats_linear", no_linear, "share no records"),
    ],
)
def test_a_rule_of_classifiers_refuses_on_its_own_ground_warns_and_can_be_off(
    tmp_path: Path, rule: str, spoil: Any, told: str
) -> None:
    night = classifiers("adapter")
    spoil(night)
    refused = verdict(tmp_path / "r", night, params=with_rule(rule, severity="refuse"))
    assert outcomes(refused, "refused") == {rule}
    assert told in refused.refused[0].text
    warned = verdict(tmp_path / "w", night, params=with_rule(rule, severity="warn"))
    assert warned.verdict == "promote"
    assert rule in outcomes(warned, "warned")
    off = verdict(tmp_path / "o", night, params=with_rule(rule, enabled=False))
    assert rule in outcomes(off, "off")


def test_a_share_that_is_missing_refuses(tmp_path: Path) -> None:
    night = classifiers("adapter")
    no_share(night)
    decision = verdict(tmp_path, night)
    assert outcomes(decision, "refused") == {"inside_labels", "evidence"}


def test_the_loss_that_has_to_be_ruled_out_is_the_tasks_own(tmp_path: Path) -> None:
    """A tenth fewer right: a loss of 0.10, which the margin of answers would nearly let pass."""
    night = classifiers("adapter")
    got_right(night, "adapter", 10, champion=True)
    decision = verdict(tmp_path, night)
    assert "not_worse" in outcomes(decision, "refused")
    [found] = [item for item in decision.reasons if item.rule == "not_worse"]
    assert found.bound == -PARAMS.tasks.classify.margin
    assert found.value == pytest.approx(-0.1)


def test_params_of_answers_are_as_they_stand() -> None:
    assert PARAMS.of_task(ANSWER) is PARAMS
