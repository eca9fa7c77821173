"""MLflow's requests: tools, calls and results become turns, or are refused by name."""

from typing import Any

import pytest

from tasks.answering.response_items import conversation, shown_tools
from tasks.records.schema import Message
from tasks.records.tool_text import Call, offered, said_text
from tasks.stage.errors import ConfigError

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
ASK = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why?"}]}
CALL = {"type": "function_call", "call_id": "c1", "id": "fc", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "so"}


def test_calls_and_results_become_turns() -> None:
    said = {"type": "message", "role": "assistant", "content": "I look."}
    system, asked, called, results = conversation([ASK, said, CALL, OUTPUT], [TOOL])
    assert offered([system]) == {"f"}
    assert asked == Message("user", "Why?")
    assert called == Message("assistant", said_text("I look.", [Call("f", {"a": 1})]))
    assert results == Message("user", "<tool_response>\nso\n</tool_response>")
    assert conversation([ASK, CALL, OUTPUT], [])[1].role == "assistant"


@pytest.mark.parametrize(
    ("items", "tools", "told"),
    [
        ([], [], "nothing to answer"),
        ([ASK, CALL], [TOOL], "nothing to answer"),
        ([ASK, OUTPUT], [TOOL], "of no call before it"),
        ([ASK, CALL | {"arguments": "{"}, OUTPUT], [TOOL], "no JSON"),
        ([ASK], [{"type": "web_search"}], "tool 0"),
    ],
)
def test_what_is_no_conversation_is_refused(items: Any, tools: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        conversation(items, tools)


def test_tools_are_refused_by_a_model_that_calls_none_and_choices_by_name() -> None:
    with pytest.raises(ConfigError, match="was not trained to call any"):
        shown_tools([TOOL], None, calls_tools=False)
    with pytest.raises(ConfigError, match="tool_choice asks for a call"):
        shown_tools([TOOL], "required", calls_tools=True)
    assert shown_tools([], "auto", calls_tools=False) == []
    assert shown_tools([TOOL], "none", calls_tools=True) == []
    assert shown_tools([TOOL], "auto", calls_tools=True) == [TOOL]
