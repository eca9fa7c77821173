"""Tools over OpenAI's API: offered, called, answered, and refused by name, by the real client."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import OpenAI

from tasks.records.schema import Message
from tasks.records.tool_text import (
    CALL,
    Call,
    given_back,
    offered,
    read_tools,
    said_text,
    with_tools,
)
from tasks.serving.tool_calls import WordStream
from tasks.serving.versions import Versions
from tests.builders.model_server import KEY, bounds
from tests.builders.stub_server import StubServer, stub_server
from tests.builders.tool_calls import CLOCK, WEATHER, call, calling, result

MODEL = "nightloom-adapter"
ASK: Any = [{"role": "user", "content": "What is the weather in Seoul?"}]
TOOLS: Any = [WEATHER, CLOCK]
SEOUL, LIMA = Call("get_weather", {"city": "서울"}), Call("get_time", {"city": "Lima"})


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    with stub_server(tmp_path_factory.mktemp("server"), bounds()) as made:
        yield made


@pytest.fixture
def server(started: StubServer) -> StubServer:
    started.engine.calls_tools = True
    started.engine.text = said_text("", [SEOUL])
    started.engine.asked.clear()
    return started


@pytest.fixture(scope="module")
def client(started: StubServer) -> Iterator[OpenAI]:
    direct = openai.DefaultHttpxClient(trust_env=False)
    with OpenAI(
        base_url=f"{started.address}/v1", api_key=KEY, http_client=direct, max_retries=0
    ) as made:
        yield made


def create(client: OpenAI, **asked: Any) -> Any:
    content: dict[str, Any] = {"model": MODEL, "messages": ASK, "tools": TOOLS}
    return client.chat.completions.create(**content | asked)


def turns(server: StubServer) -> list[Message]:
    return list(server.engine.asked[-1].turns)


def test_a_call_comes_back_as_openais_client_expects_it(server: StubServer, client: OpenAI) -> None:
    [choice] = create(client).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [made] = choice.message.tool_calls
    assert (made.type, made.function.name) == ("function", "get_weather")
    assert json.loads(made.function.arguments) == {"city": "서울"}
    assert made.id.startswith("call_")
    assert offered(turns(server)) == {"get_weather", "get_time"}


def test_words_and_several_calls_come_back_apart(server: StubServer, client: OpenAI) -> None:
    server.engine.text = said_text("I look.", [SEOUL, LIMA])
    [choice] = create(client).choices
    assert choice.message.content == "I look."
    assert [one.function.name for one in choice.message.tool_calls] == ["get_weather", "get_time"]
    assert len({one.id for one in choice.message.tool_calls}) == 2
    [choice] = create(client, parallel_tool_calls=False).choices
    assert [one.function.name for one in choice.message.tool_calls] == ["get_weather"]


def test_an_answer_in_words_is_one(server: StubServer, client: OpenAI) -> None:
    server.engine.text = "It rains."
    [choice] = create(client).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "It rains.")
    assert choice.message.tool_calls is None


def test_what_is_tagged_as_a_call_and_is_none_stays_text(
    server: StubServer, client: OpenAI
) -> None:
    server.engine.text = "<tool_call>\nget_weather(Seoul)\n</tool_call>"
    [choice] = create(client).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", server.engine.text)


def test_a_stream_ends_with_its_calls(server: StubServer, client: OpenAI) -> None:
    server.engine.text = said_text("I look.", [SEOUL, LIMA])
    with client.chat.completions.stream(model=MODEL, messages=ASK, tools=TOOLS) as stream:
        for _ in stream:
            pass
        [choice] = stream.get_final_completion().choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    assert choice.message.tool_calls is not None
    made = [(one.function.name, one.function.arguments) for one in choice.message.tool_calls]
    assert made == [("get_weather", '{"city": "서울"}'), ("get_time", '{"city": "Lima"}')]


def test_an_answer_of_the_client_goes_back_with_its_results(
    server: StubServer, client: OpenAI
) -> None:
    said = create(client).choices[0].message
    history = [*ASK, said.model_dump(), result("rain", said.tool_calls[0].id)]
    server.engine.text = "It rains in Seoul."
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=history, tools=TOOLS
    )
    assert raw.parse().choices[0].message.content == "It rains in Seoul."
    assert "x-nightloom-ignored" not in raw.headers
    _, asked, called, results = turns(server)
    assert asked.content == ASK[0]["content"]
    assert called == Message("assistant", said_text("", [SEOUL]))
    assert results == Message("user", "<tool_response>\nrain\n</tool_response>")


def test_the_clients_system_turn_stands_before_the_tools(
    server: StubServer, client: OpenAI
) -> None:
    create(client, messages=[{"role": "developer", "content": "Be kind."}, *ASK])
    assert turns(server)[0] == Message("system", with_tools("Be kind.", read_tools(TOOLS)))


def test_each_choice_is_honoured(server: StubServer, client: OpenAI) -> None:
    for choice in ("auto", None):
        create(client, tool_choice=choice)
        assert (server.engine.asked[-1].begins, server.engine.asked[-1].stops) == ("", ())
    create(client, tool_choice="none", messages=[{"role": "system", "content": "s"}, *ASK])
    assert turns(server)[0] == Message("system", "s")
    assert server.engine.asked[-1].stops == (CALL,)


def test_a_required_call_is_begun_for_the_model(server: StubServer, client: OpenAI) -> None:
    server.engine.text = '\n{"name": "get_time", "arguments": {"city": "Lima"}}\n</tool_call>'
    [choice] = create(client, tool_choice="required").choices
    assert server.engine.asked[-1].begins == CALL
    assert choice.message.tool_calls[0].function.name == "get_time"
    server.engine.text = ' {"city": "Lima"}}\n</tool_call>'
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    [choice] = create(client, tool_choice=named).choices
    assert choice.message.tool_calls[0].function.name == "get_weather"
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Lima"}'
    chunks = list(create(client, tool_choice=named, stream=True))
    [delta] = [one.choices[0].delta for one in chunks if one.choices[0].delta.tool_calls]
    assert delta.tool_calls[0].function.name == "get_weather"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("asked", "param", "told"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "'f'"),
        ({"tool_choice": "any"}, "tool_choice", "neither"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "neither"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "tools holds none"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools", "tool 0"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "two tools"),
        ({"tools": ["f"]}, "tools", "tool 0 is a text"),
        ({"messages": [*ASK, result("rain")]}, "messages", "of no call before it"),
        (
            {"messages": [*ASK, calling(call("get_weather") | {"function": {"name": "f",
             "arguments": "{"}}), result("rain")]},
            "messages", "no JSON",
        ),
        ({"messages": [*ASK, calling(call("get_weather"))]}, "messages", "nothing to answer"),
        ({"functions": [WEATHER["function"]], "tools": []}, "functions", "functions is a list"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(
    server: StubServer, asked: dict[str, Any], param: str, told: str
) -> None:
    response = server.post(**{"messages": ASK, "tools": TOOLS} | asked)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert told in error["message"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"messages": [*ASK, calling(call("f")), *ASK]}, "messages.1.tool_calls"),
        ({"messages": [*ASK, result("rain")]}, "messages.1.role"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_a_model_that_was_not_trained_for_tools_refuses_them_by_name(
    server: StubServer, asked: dict[str, Any], param: str
) -> None:
    server.engine.calls_tools = False
    response = server.post(**{"messages": ASK} | asked)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert "not trained to call tools" in error["message"]


def test_a_version_that_calls_none_and_comes_amid_a_request_refuses_too(
    server: StubServer, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.engine.calls_tools = False
    monkeypatch.setattr(Versions, "calls_tools", lambda *_: True)
    with pytest.raises(openai.BadRequestError, match="was not trained to call tools"):
        create(client)


def test_a_strict_schema_is_named_as_of_no_effect(server: StubServer) -> None:
    strict = WEATHER | {"function": WEATHER["function"] | {"strict": True}}
    response = server.post(messages=ASK, tools=[strict], parallel_tool_calls=True)
    assert response.headers["x-nightloom-ignored"] == "tools.function.strict"


WHOLE = (
    "plain words",
    said_text("I look.", [SEOUL, LIMA]),
    said_text("", [SEOUL]),
    "a < b and <tool or <tool_calls",
    "I look. <tool_call>broken</tool_call> after",
    "  ",
)


@pytest.mark.parametrize("whole", WHOLE)
def test_however_a_text_is_cut_its_stream_gives_what_the_whole_gives(whole: str) -> None:
    for size in range(1, len(whole) + 1):
        stream, told = WordStream("", None), ""
        for begin in range(0, len(whole), size):
            told += stream.feed(whole[begin : begin + size])
        rest, calls = stream.rest(whole)
        words, made = given_back(whole)
        assert (told + rest).strip() == words
        assert [one["function"]["name"] for one in calls] == [one.name for one in made]
        assert "<tool_call>" not in told


def test_a_reply_that_was_cut_says_so(server: StubServer, client: OpenAI) -> None:
    engine = server.engine
    ask = engine.ask

    def cut(asked: Any, listener: Any, **options: Any) -> Any:
        def hear(event: Any) -> None:
            listener(replace(event, is_cut=True) if hasattr(event, "is_cut") else event)

        return ask(asked, hear, **options)

    engine.ask = cut  # type: ignore[method-assign]
    try:
        assert create(client).choices[0].finish_reason == "length"
    finally:
        del engine.ask  # type: ignore[method-assign]


def test_tools_count_as_characters_of_the_messages(server: StubServer) -> None:
    long = [WEATHER | {"function": WEATHER["function"] | {"description": "x" * 200_001}}]
    error = server.post(messages=ASK, tools=long).json()["error"]
    assert error["code"] == "context_length_exceeded"
