"""A closed set of labels is one, or is refused by name; what a model was trained for is kept."""

import json
from pathlib import Path

import pytest

from tasks.promotion.decision import RULES
from tasks.stage.errors import ConfigError, DataError
from tasks.task_types.classify import CLASSIFY, choose_labels
from tasks.task_types.table import TASK_FILE, TASK_TYPES, TrainedTask, evaluated_task

ROWS = ["spam", "ham", "spam", "ham", "ham"]


def test_labels_are_the_answers_of_the_training_split_in_order() -> None:
    assert choose_labels(ROWS, None) == ("ham", "spam")


def test_labels_of_params_may_be_more_than_the_data_hold() -> None:
    assert choose_labels(ROWS, ["spam", "ham", "other"]) == ("ham", "other", "spam")


@pytest.mark.parametrize(
    ("rows", "given", "told"),
    [
        (["Spam", "spam", "ham"] * 3, None, r"'Spam', 'spam'"),
        (["not spam", "not  spam", "spam"] * 3, None, r"'not  spam', 'not spam'"),
        (["spam ", "spam", "ham"] * 3, None, r"'spam', 'spam '"),
        (["spam"] * 4, None, r"there is 1 label \('spam'\)"),
        (["spam", " ", "ham"] * 3, None, r"one of the labels is empty"),
        (ROWS, ["spam", ""], r"one of the labels is empty"),
        (ROWS, ["spam", "scam"], r"1 answers of the training split are no label .*: 'ham'"),
        (ROWS, [], r"there is 0 label"),
        (["spam"] * 4, ["spam", "ham"], r"the training split has one label \('spam'\)"),
        (["one", "two", "three", "four"], None, r"4 rows of the training split have 4 different"),
    ],
)
def test_what_is_no_closed_set_is_refused_by_name(
    rows: list[str], given: list[str] | None, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        choose_labels(rows, given)


def test_what_a_model_was_trained_for_lies_beside_its_prompt(tmp_path: Path) -> None:
    task = TrainedTask("classify", ("환불", "spam"), constrained=True)
    task.write(tmp_path)
    assert TrainedTask.read(tmp_path) == task
    assert task.spoken == ("환불", "spam")


def test_task_answer_leaves_nothing_so_that_its_files_are_those_of_before(tmp_path: Path) -> None:
    TrainedTask("answer").write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert TrainedTask.read(tmp_path) == TrainedTask("answer", (), constrained=False)
    assert evaluated_task({}).name == "answer"


def test_a_task_that_this_version_does_not_know_is_refused(tmp_path: Path) -> None:
    content = {"name": "translate", "labels": [], "constrained": False}
    (tmp_path / TASK_FILE).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="trained for 'translate'; this version knows answer"):
        TrainedTask.read(tmp_path)
    with pytest.raises(ConfigError, match="of task 'translate'"):
        evaluated_task({"task": {"name": "translate"}})


def test_tasks_name_rules_that_are_there() -> None:
    known = {rule.name for rule in RULES}
    for task in TASK_TYPES.values():
        assert task.rules <= known
        assert set(task.unasked or {}) <= known
    assert CLASSIFY.metric in CLASSIFY.metrics
