"""Turns that may call tools: by name and arguments as JSON, or by their words."""

import pytest

from tasks.records.tool_text import Call, said_text
from tasks.scoring.call_scores import score_calls, turn_score
from tasks.scoring.json_values import same_json

ONE, TWO = Call("f", {"a": 1, "b": ["x", {"c": None}]}), Call("g", {})
NAMES = {"f", "g"}


def text(*calls: Call) -> str:
    return said_text("", calls)


@pytest.mark.parametrize(
    ("output", "match", "named"),
    [
        (text(ONE), 1, 1),
        ('<tool_call>{"arguments":{"b":["x",{"c":null}],"a":1.0},"name":"f"}</tool_call>', 1, 1),
        ("Let me see. " + text(ONE), 1, 1),
        (text(Call("f", {"a": "1", "b": ["x", {"c": None}]})), 0, 1),
        (text(Call("f", {"a": 1, "b": [{"c": None}, "x"]})), 0, 1),
        (text(Call("f", {})), 0, 1),
        (text(Call("g", dict(ONE.arguments))), 0, 0),
        (text(ONE, ONE), 0, 0),
        (text(ONE) + "<tool_call>{</tool_call>", 0, 1),
        ("The answer is 1.", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_call_is_right_by_its_name_and_arguments(output: str, match: int, named: int) -> None:
    found = score_calls(output, text(ONE), NAMES)
    assert (found.turn_score, found.call_match, found.name_match) == (match, match, named)
    assert found.words_f1 is None


def test_the_order_of_calls_does_not_count_and_each_counts_once() -> None:
    assert turn_score(text(TWO, ONE), text(ONE, TWO)) == 1
    assert turn_score(text(ONE, ONE), text(ONE, TWO)) == 0
    assert turn_score(text(ONE), text(ONE, TWO)) == 0


def test_words_are_scored_as_words_and_a_call_in_their_place_is_wrong() -> None:
    assert score_calls("It rains.", "It rains.", NAMES).turn_score == 1
    half = score_calls("It rains", "It pours", NAMES)
    assert (half.turn_score, half.words_f1, half.call_match) == (0.5, 0.5, None)
    called = score_calls("It rains. " + text(TWO), "It rains.", NAMES)
    assert (called.turn_score, called.words_f1, called.calls) == (0, 0, 1)


def test_calls_that_are_none_and_of_no_tool_are_counted() -> None:
    output = text(ONE, Call("h", {})) + "<tool_call>f(1)</tool_call>"
    found = score_calls(output, text(ONE), NAMES)
    assert (found.calls, found.broken_calls, found.unoffered_calls) == (3, 1, 1)
    assert found.call_match == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True), (10, 1e1, True), (0.1, 0.1, True), (1, "1", False), (1, True, False),
        (0, False, False), (None, False, False), (None, None, True), (True, True, True),
        ("\u00e9", "e\u0301", True), ("a", "A", False), ([1, 2], [2, 1], False),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True), ({"a": None}, {}, False), ([], {}, False),
        ({"a": [True]}, {"a": [1]}, False),
    ],
)  # fmt: skip
def test_json_is_equal_by_what_it_says(one: object, other: object, same: bool) -> None:
    assert same_json(one, other) is same
    assert same_json(other, one) is same
