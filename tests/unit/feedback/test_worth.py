"""Which served questions are looked at first, and which answers people have called right."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.feedback.served import ServedQuestion
from tasks.feedback.worth import (
    ABSTAINED,
    DISAGREEMENT,
    MARKED_BAD,
    OTHER,
    POORLY_GROUNDED,
    by_worth,
    right_answer,
    wrong_answer,
)
from tests.builders import served_questions

MARKERS = ["I don't know", "모르겠습니다"]
NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)


def served(trace: str, answer: str = "f returns one.", **said: Any) -> ServedQuestion:
    asked = served_questions.exchange(answer=answer, asked=said.pop("asked", NOW))
    return served_questions.served(trace, asked, **said)


def test_bad_marks_come_first_then_disagreement_then_doubt_and_the_newest() -> None:
    questions = [
        served("old", asked=NOW - timedelta(days=2)),
        served("new"),
        served("apart", others={"student-1": "Nobody can say."}),
        served("made up", answer="g prints 42 twice and closes the socket."),
        served("silent", answer="모르겠습니다."),
        served("bad", correct=False),
        served("good", correct=True),
        served("mended", correct=False, expected="f returns 1."),
    ]
    found = [(one.question.trace, one.reason) for one in by_worth(questions, MARKERS)]
    assert found == [
        ("bad", MARKED_BAD),
        ("apart", DISAGREEMENT),
        ("silent", ABSTAINED),
        ("made up", POORLY_GROUNDED),
        ("new", OTHER),
        ("old", OTHER),
    ]


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ({}, None),
        ({"note": "hm"}, None),
        ({"correct": False}, None),
        ({"correct": True}, "f returns one."),
        ({"correct": False, "expected": "1"}, "1"),
        ({"correct": True, "expected": "1"}, "1"),
    ],
)
def test_only_what_people_called_right_is_right(said: dict[str, Any], right: str | None) -> None:
    assert right_answer(served("one", **said)) == right


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({}, None),
        ({"correct": False}, None),  # nobody says what would be better
        ({"correct": True, "expected": "1"}, None),
        ({"correct": False, "expected": "1"}, "f returns one."),
        ({"expected": "1"}, "f returns one."),
        ({"correct": False, "expected": " f returns one. "}, None),
        ({"correct": False, "expected": "1", "answer": " "}, None),
    ],
)
def test_what_was_served_is_rejected_where_somebody_put_it_right(
    said: dict[str, Any], wrong: str | None
) -> None:
    assert wrong_answer(served("one", **said)) == wrong
