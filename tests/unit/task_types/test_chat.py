"""Which turns of a conversation are learned, by what its passages are searched, and what is refused
before training."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records.schema import Message, Record
from tasks.stage.errors import DataError
from tasks.task_types.chat import (
    ChatSettings,
    check_conversations,
    conversation_query,
    first_exchange,
    learned_turns,
    turn_number,
)
from tasks.task_types.table import TASK_FILE, TrainedTask


def chat(*texts: str, system: str = "") -> tuple[Message, ...]:
    roles = ("user", "assistant")
    turns = tuple(Message(roles[at % 2], text) for at, text in enumerate(texts))
    return (Message("system", system), *turns) if system else turns


def record(*texts: str, name: str = "c", system: str = "") -> Record:
    return Record(name, chat(*texts, system=system), (), "all", name, "", "", "1")


THREE = record("Who?", "Ann.", "When?", "Noon.", "Why?", "Sun.", system="Be brief.")


def ends(found: list[Record]) -> list[tuple[int, str]]:
    return [(turn_number(turn), turn.answer) for turn in found]


def test_every_assistant_turn_is_learned_after_all_turns_before_it() -> None:
    found = learned_turns(THREE, "all")
    assert ends(found) == [(1, "Ann."), (2, "Noon."), (3, "Sun.")]
    for turn in found:
        assert turn.messages == THREE.messages[: len(turn.messages)]
        assert turn.id == THREE.id


def test_turns_of_weight_zero_stay_in_what_is_asked_and_are_not_learned() -> None:
    found = learned_turns(replace(THREE, unlearned=(1,)), "all")
    assert ends(found) == [(2, "Noon."), (3, "Sun.")]
    assert Message("assistant", "Ann.") in found[0].messages[:-1]


def test_what_a_row_rejects_is_worse_than_its_last_turn_alone() -> None:
    found = learned_turns(replace(THREE, rejected="Never."), "all")
    assert [turn.rejected for turn in found] == ["", "", "Never."]


def test_the_last_turn_alone_is_learned_where_params_say_so_and_of_feedback() -> None:
    assert learned_turns(THREE, "last") == [THREE]
    corrected = replace(THREE, is_feedback=True)
    assert learned_turns(corrected, "all") == [corrected]


def test_a_demonstration_is_the_first_exchange_which_needs_nothing_before_it() -> None:
    assert first_exchange(THREE).answer == "Ann."
    assert TrainedTask().shown(THREE) == THREE


def test_passages_are_searched_by_the_last_turn_and_those_before_it_the_latest_first() -> None:
    asked = THREE.messages[:-1]
    assert conversation_query(asked, 600) == "Why?\nNoon.\nWhen?\nAnn.\nWho?"
    assert conversation_query(asked, 10) == "Why?\nNoon."
    assert conversation_query(asked, 1) == "Why?"
    longer = chat("Who is it?", "Ann is.", "Why?")
    assert conversation_query(longer, 20) == "Why?\nAnn is.\nWho is"
    again = chat("Who?", "Ann.", "who?")
    assert conversation_query(again, 600) == "who?\nAnn."


@given(st.lists(st.text("ab 하늘\n", max_size=12), min_size=1, max_size=9), st.integers(1, 60))
def test_a_query_is_bounded_and_begins_with_the_whole_last_turn(
    texts: list[str], most: int
) -> None:
    turns = [Message("user", text) for text in texts]
    found = conversation_query(turns, most)
    assert found.startswith(texts[-1])
    assert len(found) <= max(most, len(texts[-1]))


def test_other_tasks_search_by_the_last_turn_alone() -> None:
    turns = THREE.messages[:-1]
    assert TrainedTask().query(turns) == TrainedTask("summarize").query(turns) == "Why?"
    assert TrainedTask("chat", chat=ChatSettings("all", 9)).query(turns) == "Why?\nNoon"


def test_the_task_lies_beside_the_prompt_with_what_it_was_told(tmp_path: Path) -> None:
    task = TrainedTask("chat", chat=ChatSettings("last", 200))
    task.write(tmp_path)
    assert TrainedTask.read(tmp_path) == task
    assert task.numbers() == {"name": "chat", "learn": "last"}
    TrainedTask("summarize").write(tmp_path)
    assert "chat" not in (tmp_path / TASK_FILE).read_text()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (record(*["a", "b"] * 500, name="r1"), r"more than task\.chat\.max_turns \(50\).*r1 \(t"),
        (record("Who?", " ", "When?", "Noon.", name="r2"), r"empty turn: r2 \(test\)"),
        (record("Who?", "Ann.", "\n", "Noon.", name="r3"), r"empty turn: r3 \(test\)"),
    ],
)
def test_what_cannot_be_learned_is_refused_by_its_id(bad: Record, told: str) -> None:
    with pytest.raises(DataError, match=told):
        check_conversations({"train": [THREE], "test": [THREE, bad]}, "all", 50)
    check_conversations({"train": [THREE], "test": [THREE]}, "all", 50)


def test_an_empty_turn_that_is_not_learned_is_no_fault() -> None:
    silent = record("Who?", "", "When?", "Noon.")
    check_conversations({"train": [replace(silent, unlearned=(1,))]}, "all", 50)
    check_conversations({"train": [silent]}, "last", 50)
