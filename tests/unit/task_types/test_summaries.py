"""What is no summary is refused by its id, and one longer than its text is told."""

from pathlib import Path

import pytest

from tasks.records.schema import Message, Record
from tasks.stage.errors import DataError
from tasks.task_types.definition import TaskType
from tasks.task_types.summarize import check_summaries, longer_than_sources
from tasks.task_types.table import TASK_TYPES, TrainedTask


def record(name: str, text: str, summary: str) -> Record:
    turns = (Message("user", text), Message("assistant", summary))
    return Record(name, turns, (), "all", name, "", "", "1")


GOOD = record("good", "a long text of many words", "a text")


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (record("r1", "a text", " \n"), r"1 records have an empty summary: r1 \(test\)"),
        (record("r2", " ", "a text"), r"1 records have an empty text to summarize: r2 \(test\)"),
    ],
)
def test_an_empty_text_or_summary_is_refused_by_its_id(bad: Record, told: str) -> None:
    with pytest.raises(DataError, match=told):
        check_summaries({"train": [GOOD], "test": [GOOD, bad]})
    check_summaries({"train": [GOOD], "test": [GOOD]})


def test_a_summary_longer_than_its_text_is_named() -> None:
    longer = record("r3", "짧은 글", "글보다 긴 요약이다")
    assert longer_than_sources([GOOD, longer]) == ["r3"]


def test_the_task_lies_beside_the_prompt_and_says_nothing_of_labels(tmp_path: Path) -> None:
    task = TrainedTask("summarize")
    task.write(tmp_path)
    assert TrainedTask.read(tmp_path) == task
    assert task.spoken is None
    assert task.numbers() == {"name": "summarize"}


@pytest.mark.parametrize("task", TASK_TYPES.values(), ids=TASK_TYPES)
def test_what_short_tables_show_is_a_metric_that_must_be_there(task: TaskType) -> None:
    assert set(task.shown) <= set(task.metrics)
    assert task.metric in (None, task.shown[0])
    assert all(task.unasked.values() if task.unasked else ())
