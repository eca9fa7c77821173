"""What is decided of conversations: a conversation is one unit, however many turns it has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.promotion.answer_columns import AnswerColumns, read_answer_columns
from tasks.promotion.comparison import Side, compare_systems
from tasks.promotion.decision import decide, rules_of
from tasks.records.predictions import Prediction, record_scores, write_predictions
from tasks.records.schema import ServedModel
from tasks.stage.errors import DataError
from tasks.task_types.chat import CHAT
from tests.builders.promotion_evidence import PARAMS, RECORDS, Night, good_night, outcomes

SHIFTS = (-0.04, 0.0, 0.04)


def turns(row: Prediction, count: int = 3) -> list[Prediction]:
    """The same score as a conversation whose turns scatter around it."""
    return [
        replace(
            row,
            turn=number,
            question=f"{row.question}, turn {number}",
            token_f1=row.score("token_f1") + SHIFTS[(number - 1) % 3],
        )
        for number in range(1, count + 1)
    ]


def as_chat(rows: list[Prediction], count: int = 3) -> list[Prediction]:
    return [turn for row in rows for turn in turns(row, count)]


def talks(model: ServedModel = "adapter", count: int = 3) -> Night:
    """A night of chat models with nothing against it."""
    night = good_night(model=model, records=100)
    night.tonight.metrics["task"] = {"name": "chat", "learn": "all"}
    night.tonight.rows = as_chat(night.tonight.rows, count)
    assert night.champion is not None
    night.champion.rows = as_chat(night.champion.rows, count)
    return night


def verdict(folder: Path, night: Night, model: ServedModel = "adapter") -> Any:
    return decide(PARAMS, night.write(folder, model), model=model)


def columns(folder: Path, rows: list[Prediction]) -> AnswerColumns:
    path = folder / "predictions.parquet"
    write_predictions(path, rows)
    [found] = read_answer_columns(path, "token_f1", ["adapter"]).values()
    return found


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_good_chat_model_is_promoted(tmp_path: Path, model: ServedModel) -> None:
    decision = verdict(tmp_path, talks(model), model)
    assert decision.refused == ()
    rules = {item.rule.partition("/")[0] for item in decision.reasons}
    assert rules == {rule.name for rule in rules_of(model, CHAT)}
    [gain] = [item for item in decision.reasons if item.rule == "beats_base"]
    assert "token_f1 over base" in gain.text
    [shadow] = [item for item in decision.reasons if item.rule == "shadow"]
    assert (shadow.outcome, shadow.text) == ("off", (CHAT.unasked or {})["shadow"])


def test_more_turns_of_the_same_conversations_narrow_no_interval(tmp_path: Path) -> None:
    found = {}
    for count in (3, 30):
        decision = verdict(tmp_path / str(count), talks(count=count))
        reasons = {item.rule: item for item in decision.reasons}
        found[count] = [reasons[name] for name in ("beats_base", "not_worse", "power")]
    for few, many in zip(found[3], found[30], strict=True):
        assert few.value == pytest.approx(many.value, abs=1e-6)
        if few.interval is not None:
            assert few.interval.low == pytest.approx(many.interval.low, abs=1e-6)
            assert few.interval.high == pytest.approx(many.interval.high, abs=1e-6)
    assert "100 records" in found[30][2].text


def test_a_conversation_is_one_place_with_the_means_over_its_turns(tmp_path: Path) -> None:
    night = good_night(records=4)
    own = [row for row in night.tonight.rows if (row.system, row.mode) == ("adapter", "oracle")]
    rows = as_chat(own)
    rows = [
        replace(row, is_cut=row.turn == 1, output="bad \ufffd" if row.turn == 2 else "good",
                groundedness=0.5 if row.turn == 3 else None)
        for row in rows
    ]  # fmt: skip
    found = columns(tmp_path, rows[::-1])
    assert len(found.asked) == 4
    assert [name for name, _, _ in found.asked] == sorted({row.record for row in rows})
    assert found.asked[0][1] == '["q0, turn 1", "q0, turn 2", "q0, turn 3"]'
    scores = record_scores(rows, "token_f1")
    assert found.score == pytest.approx([scores[name] for name, _, _ in found.asked])
    assert found.is_cut == pytest.approx([1 / 3] * 4)
    assert found.is_broken == pytest.approx([1 / 3] * 4)
    assert found.groundedness == pytest.approx([0.5] * 4)
    assert found.is_grounded.all()
    assert found.slices == tuple(row.slice for row in own)


def test_rows_without_turns_are_read_as_they_were(tmp_path: Path) -> None:
    night = good_night(records=4)
    own = [row for row in night.tonight.rows if (row.system, row.mode) == ("adapter", "oracle")]
    found = columns(tmp_path, own)
    assert found.asked == tuple((row.record, row.question, row.reference) for row in own)
    assert found.score.tolist() == [row.token_f1 for row in own]


def test_a_conversation_whose_earlier_turn_was_changed_is_another_one(tmp_path: Path) -> None:
    night = talks()
    assert night.champion is not None
    first = next(row for row in night.champion.rows if row.mode == PARAMS.primary_mode)
    night.champion.rows = [
        replace(row, reference="mended") if row == first else row for row in night.champion.rows
    ]
    decision = verdict(tmp_path, night)
    assert "not_worse" in outcomes(decision, "refused")


def test_cut_turns_refuse_by_their_share(tmp_path: Path) -> None:
    night = talks()
    night.tonight.rows = [replace(row, is_cut=row.turn != 2) for row in night.tonight.rows]
    decision = verdict(tmp_path, night)
    [stops] = [item for item in decision.reasons if item.rule == "stops"]
    assert stops.outcome == "refused"
    assert stops.value == pytest.approx(2 / 3)


def test_two_answers_to_the_same_turn_are_refused() -> None:
    night = good_night(records=1)
    rows = turns(night.tonight.rows[0])
    with pytest.raises(DataError, match="two answers to record r00"):
        record_scores([*rows, rows[0]], "token_f1")


def test_compare_pairs_conversations_and_not_their_turns() -> None:
    night = good_night(records=RECORDS)
    rows = {
        name: [row for row in night.tonight.rows if (row.system, row.mode) == (name, "oracle")]
        for name in ("base", "adapter")
    }
    found = {}
    for count in (1, 3, 30):
        sides = [
            Side(name, name, tuple(as_chat(rows[name], count) if count > 1 else rows[name]))
            for name in ("base", "adapter")
        ]
        found[count] = compare_systems(
            *sides, mode="oracle", metric="token_f1", changes=5, params=PARAMS
        )
    whole = {count: one.modes["oracle"] for count, one in found.items()}
    assert {one.records for one in found.values()} == {RECORDS}
    for count in (3, 30):
        assert whole[count].difference == pytest.approx(whole[1].difference)
        assert np.allclose(
            [whole[count].low, whole[count].high], [whole[1].low, whole[1].high], atol=1e-6
        )
    assert [one.records for one in found[30].slices.values()] == [RECORDS // 2] * 2
