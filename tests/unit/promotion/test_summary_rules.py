"""What is decided of summarizers: ROUGE-L, its own margins, and numbers and names from nowhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.decision import decide, rules_of
from tasks.promotion.params import PromotionParams
from tasks.records.predictions import Prediction
from tasks.records.schema import ServedModel
from tasks.task_types.summarize import SUMMARIZE
from tests.builders.promotion_evidence import (
    PARAMS,
    SYSTEMS,
    Night,
    good_night,
    outcomes,
    with_rule,
)

RECORDS = 100
OWN = dict.fromkeys(SUMMARIZE.metrics, 0.5) | {
    "unsupported_share": 0.04,
    "reference_unsupported_share": 0.02,
    "cut_outputs": 0.0,
}


def as_summary(row: Prediction) -> Prediction:
    """The same score as ROUGE-L, which summaries have, and none of the scores of answers."""
    scores = dict.fromkeys(("exact_match", "token_f1", "chrf", "groundedness"), None)
    return replace(row, rouge_l=row.token_f1, rouge_1=0.5, rouge_2=0.4, compression=0.2, **scores)


def summarizers(model: ServedModel = "adapter") -> Night:
    """A night of summarizers with nothing against it, whose champion is as good."""
    night = good_night(("closed_book",), model, records=RECORDS)
    found = night.tonight
    found.metrics["task"] = {"name": "summarize"}
    found.metrics["systems"] = {system: {"closed_book": dict(OWN)} for system in SYSTEMS}
    found.metrics["abstention_shares"] = {}
    found.rows = [as_summary(row) for row in found.rows]
    assert night.champion is not None
    night.champion.rows = [as_summary(row) for row in night.champion.rows]
    return night


def verdict(
    folder: Path, night: Night, model: ServedModel = "adapter", params: PromotionParams = PARAMS
) -> Any:
    return decide(params, night.write(folder, model), model=model)


def say(night: Night, share: float | None, **more: Any) -> None:
    own = night.tonight.metrics["systems"]["adapter"]["closed_book"]
    own.update({"unsupported_share": share} | more)


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_good_summarizer_is_promoted_by_its_rouge_l(tmp_path: Path, model: ServedModel) -> None:
    decision = verdict(tmp_path, summarizers(model), model)
    assert decision.refused == ()
    rules = {item.rule.partition("/")[0] for item in decision.reasons}
    assert rules == {rule.name for rule in rules_of(model, SUMMARIZE)}
    [gain] = [item for item in decision.reasons if item.rule == "beats_base"]
    assert "rouge_l over base" in gain.text
    [faithful] = [item for item in decision.reasons if item.rule == "faithful"]
    assert (faithful.outcome, faithful.value, faithful.bound) == ("passed", 0.04, 0.1)


def test_what_has_nothing_to_ask_says_why(tmp_path: Path) -> None:
    decision = verdict(tmp_path, summarizers())
    assert SUMMARIZE.unasked is not None
    told = {item.rule: item.text for item in decision.reasons if item.outcome == "off"}
    assert set(SUMMARIZE.unasked) <= set(told)
    for rule, why in SUMMARIZE.unasked.items():
        assert told[rule] == why


def test_numbers_and_names_from_nowhere_refuse_and_the_references_share_is_told(
    tmp_path: Path,
) -> None:
    night = summarizers()
    say(night, 0.25)
    decision = verdict(tmp_path / "r", night)
    assert outcomes(decision, "refused") == {"faithful"}
    [reason] = decision.refused
    assert "25.0% of the numbers and names in adapter's summaries are not in the texts" in (
        reason.text
    )
    assert "which are learned, 2.0%" in reason.text
    warned = verdict(tmp_path / "w", night, params=with_rule("faithful", severity="warn"))
    assert warned.verdict == "promote"
    assert "faithful" in outcomes(warned, "warned")
    off = verdict(tmp_path / "o", night, params=with_rule("faithful", enabled=False))
    assert "faithful" in outcomes(off, "off")


def test_summaries_without_a_number_or_a_name_give_the_rule_nothing_to_ask(tmp_path: Path) -> None:
    night = summarizers()
    say(night, None, unsupported_share_reason="no summary holds a number or a name")
    decision = verdict(tmp_path, night)
    assert decision.refused == ()
    assert "faithful" in outcomes(decision, "off")


def test_a_share_that_is_missing_refuses(tmp_path: Path) -> None:
    night = summarizers()
    del night.tonight.metrics["systems"]["adapter"]["closed_book"]["unsupported_share"]
    assert outcomes(verdict(tmp_path, night), "refused") == {"faithful", "evidence"}


def test_the_loss_that_has_to_be_ruled_out_is_the_tasks_own(tmp_path: Path) -> None:
    """A loss of 0.05, which the margin of answers would let pass."""
    night = summarizers()
    assert night.champion is not None
    night.champion.rows = [replace(row, rouge_l=row.score("rouge_l") + 0.05)
                           for row in night.champion.rows]  # fmt: skip
    decision = verdict(tmp_path, night)
    assert "not_worse" in outcomes(decision, "refused")
    [found] = [item for item in decision.reasons if item.rule == "not_worse"]
    assert found.bound == -PARAMS.tasks.summarize.margin
