"""Rows of tools become turns of text in one form, or are refused by what is wrong with them."""

import json
from typing import Any

import pytest

from tasks.records.messages import MisshapenError
from tasks.records.schema import Message
from tasks.records.tool_text import (
    is_results,
    is_tools_alone,
    offered,
    question_of,
    read_said,
    read_tools,
    with_tools,
)
from tasks.records.turns import asked_turns, read_turns
from tests.builders.tool_calls import CLOCK, WEATHER, asking, call, calling, result

WANTS = asking("Seoul")
CALLED = calling(call("get_weather", city="Seoul"))
WORDS = {"role": "assistant", "content": "It rains."}


def turns(messages: list[Any], tools: Any = (WEATHER, CLOCK), **more: Any) -> list[Message]:
    offers = {} if tools is None else {"tools": list(tools) if isinstance(tools, tuple) else tools}
    row = {"id": "r", "messages": messages} | offers | more
    return list(read_turns(row, reads_tools=True).messages)


def test_tools_a_call_and_its_result_stand_in_the_turns() -> None:
    system, asked, said, answered, last = turns([WANTS, CALLED, result("rain"), WORDS])
    assert system.role == "system"
    assert is_tools_alone(system.content)
    assert '\n{"type": "function", "function": {"name": "get_weather", ' in system.content
    assert asked == Message("user", "What is the weather in Seoul?")
    assert said.content == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Seoul"}}\n</tool_call>'
    )
    assert answered == Message("user", "<tool_response>\nrain\n</tool_response>")
    assert last == Message("assistant", "It rains.")


def test_a_system_turn_of_the_rows_own_stands_before_the_tools() -> None:
    own = {"role": "system", "content": "Be kind."}
    assert turns([own, WANTS, CALLED])[0].content.startswith("Be kind.\n\n# Tools\n\n")
    assert turns([WANTS, CALLED], system="Be kind.")[0].content.startswith("Be kind.\n\n# Tools")


def test_the_order_of_a_schemas_keys_and_of_arguments_is_one() -> None:
    shuffled = {
        "function": dict(reversed(WEATHER["function"].items())) | {"strict": True},
        "type": "function",
    }
    assert read_tools([shuffled]) == read_tools([WEATHER])
    bare = WEATHER["function"] | {"parameters": WEATHER["function"]["parameters"] | {"extra": None}}
    assert read_tools([bare]) == read_tools([WEATHER])
    one = calling(call("get_weather", b=1, a="x"))
    other = calling({"function": {"name": "get_weather", "arguments": {"a": "x", "b": 1}}})
    assert turns([WANTS, one])[-1] == turns([WANTS, other])[-1]


def test_results_stand_in_the_order_of_their_calls() -> None:
    both = calling(call("get_weather", "a", city="Seoul"), call("get_time", "b", city="Seoul"))
    shown = turns([WANTS, both, result("noon", "b"), result("rain", "a"), WORDS])[3].content
    assert shown.index("rain") < shown.index("noon")
    assert is_results(shown)


def test_the_columns_of_trl_and_older_names_are_read() -> None:
    row = {"id": "r", "prompt": [WANTS], "completion": [CALLED], "tools": [WEATHER]}
    assert read_turns(row, reads_tools=True).messages[-1].content.startswith("<tool_call>")
    older = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}
    found = turns([WANTS, older], tools=None, functions=[{"name": "f"}])
    assert read_said(found[-1].content).calls[0].arguments == {}
    text = '[{"type": "function", "function": {"name": "get_weather"}}]'
    assert offered(turns([WANTS, CALLED], tools=text)) == {"get_weather"}


@pytest.mark.parametrize("form", [json.dumps, list])
def test_an_answer_that_lists_its_calls_makes_them(form: Any) -> None:
    calls = [{"name": "get_time", "arguments": {"city": "Lima"}}] * 2
    row = {"id": "r", "question": "When?", "answer": form(calls), "tools": [CLOCK["function"]]}
    *_, said = read_turns(row, reads_tools=True).messages
    assert [one.name for one in read_said(said.content).calls] == ["get_time"] * 2
    words = row | {"answer": "[1] is a list"}
    assert read_turns(words, reads_tools=True).messages[-1].content == "[1] is a list"


def test_words_before_a_call_stay_before_it() -> None:
    said = turns([WANTS, calling(call("get_time", city="Lima"), content="I look. ")])[-1].content
    assert said.startswith("I look.\n<tool_call>")


def test_a_call_that_is_not_to_be_learned_is_not() -> None:
    unlearned = calling(call("get_time", city="Lima")) | {"weight": 0}
    found = turns([WANTS, WORDS, WANTS, unlearned])
    assert found[-1].content == "It rains."


@pytest.mark.parametrize(
    ("messages", "tools", "told"),
    [
        ([WANTS, calling({"function": {"name": "get_weather", "arguments": "{city: 1}"}})],
         (WEATHER,), "the arguments of a call of get_weather is no JSON"),
        ([WANTS, calling({"function": {"name": "get_weather", "arguments": "[1]"}})],
         (WEATHER,), "are a list; expected a JSON object"),
        ([WANTS, calling({"function": {"name": "get_weather", "arguments": '{"a": NaN}'}})],
         (WEATHER,), "no JSON"),
        ([WANTS, calling({"function": {"name": "get_weather", "arguments": '{"a":1,"a":2}'}})],
         (WEATHER,), "key given twice"),
        ([WANTS, CALLED], (CLOCK,), r"get_weather is called, .* tools \(get_time\)"),
        ([WANTS, CALLED], None, r"get_weather is called, .* tools \(none\)"),
        ([WANTS, result("rain"), WORDS], (WEATHER,), "is of no call before it"),
        ([WANTS, CALLED, result("rain", "call_2"), WORDS], (WEATHER,), "is of no call before it"),
        ([WANTS, CALLED, result("a"), result("b"), WORDS], (WEATHER,), "is of no call before it"),
        ([WANTS, CALLED, result("a") | {"content": 3}], (WEATHER,), "a result has the content int"),
        ([WANTS, CALLED], (WEATHER, WEATHER), "two tools are called 'get_weather'"),
        ([WANTS, WORDS], ({"type": "retrieval"},), "tool 0"),
        ([WANTS, WORDS], ({"name": 'a"b'},), "tool 0 has the name"),
        ([WANTS, WORDS], "weather", "tools is no JSON"),
        ([WANTS | {"tool_calls": [call("get_time")]}, WORDS], (CLOCK,), "is not the assistant's"),
    ],
)  # fmt: skip
def test_what_would_be_learned_wrongly_is_refused(
    messages: list[Any], tools: Any, told: str
) -> None:
    with pytest.raises(MisshapenError, match=told):
        turns(messages, tools)


def test_tools_are_refused_by_name_where_another_task_is_trained() -> None:
    with pytest.raises(MisshapenError, match=r"--set task\.name=tools"):
        read_turns({"id": "r", "messages": [WANTS, WORDS], "tools": [WEATHER]})
    with pytest.raises(MisshapenError, match=r"--set task\.name=tools"):
        read_turns({"id": "r", "messages": [WANTS, CALLED]})


def test_a_row_without_tools_is_read_as_ever() -> None:
    row = {"id": "r", "messages": [WANTS, WORDS], "tools": None, "extra": 1}
    assert read_turns(row, reads_tools=True) == read_turns(row)


def test_results_are_asked_and_the_question_is_the_users() -> None:
    row = {"id": "r", "tools": [WEATHER], "messages": [WANTS, CALLED, result("rain"), WORDS]}
    found = asked_turns(row)
    assert found is not None
    assert found[-1].content.startswith("<tool_response>")
    assert question_of(found) == "What is the weather in Seoul?"


@pytest.mark.parametrize(
    ("text", "words", "calls", "broken"),
    [
        ("no call", "no call", [], 0),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "", ["f"], 0),
        ('a <tool_call>{"name": "f", "arguments": {}}</tool_call> b', "a  b", ["f"], 0),
        ('<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>', "", ["f"], 0),
        ('<tool_call>{"name": "f", "arguments": {}}', "", ["f"], 0),
        ('<tool_call>{"name": "f", "arguments": {}} tail</tool_call>', "", [], 1),
        ('<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>x', "x", [], 1),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [], 1),
        ('<tool_call>{"name": "f", "parameters": {}}</tool_call>', "", [], 1),
        ('<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>', "", [], 1),
        ('<tool_call>' + '{"name": "f", "arguments": {"a": ' + "[" * 3000, "", [], 1),
        ('<tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call>', "", [], 1),
    ],
)  # fmt: skip
def test_a_turn_is_taken_apart_whatever_it_holds(
    text: str, words: str, calls: list[str], broken: int
) -> None:
    said = read_said(text)
    assert (said.words, [one.name for one in said.calls]) == (words, calls)
    assert len(said.broken) == broken


def test_a_system_turn_tells_what_it_offers() -> None:
    shown = with_tools("Be kind.", read_tools([WEATHER, CLOCK]))
    assert offered([Message("system", shown)]) == {"get_weather", "get_time"}
    assert offered([Message("user", shown)]) == frozenset()
    assert with_tools("Be kind.", []) == "Be kind."
