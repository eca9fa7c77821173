"""Rows that offer, make and answer calls of tools, as rows of texts alone.

OpenAI's format is read, as TRL and transformers have it: a column `tools`, turns of the role `tool`
and assistant's turns with `tool_calls`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.records.messages import MisshapenError, is_empty, shown_value
from tasks.records.schema import Message
from tasks.records.tool_text import (
    Call,
    Tool,
    ToolError,
    read_call,
    read_json,
    read_tools,
    results_text,
    said_text,
    unoffered,
    with_tools,
)

_OFFERS = ("tools", "functions")
_RESULT_ROLES = ("tool", "function")
_CALLS = ("tool_calls", "function_call")
_SHAPES = (("prompt", "completion"), ("question", "answer"))
_NAMED = 5
_CALL_KEYS = {"name", "arguments"}
_READ_KEYS = {*_CALLS, "content", "role", "tool_call_id", "name"}


def plain_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row whose tools, calls and results stand in its messages as texts.

    A row without any is returned as it is.

    Raises:
        MisshapenError: a tool or a call is none, a tool is called that is not offered, or a result
            is of no call.
    """
    offers = [name for name in _OFFERS if not is_empty(row.get(name))]
    used, turns = _turns(row)
    if turns is None or not (offers or any(map(_is_of_tools, turns))):
        return row
    try:
        if len(offers) > 1:
            raise ToolError("tools and functions both offer tools; expected one of them")
        tools = read_tools(row[offers[0]]) if offers else []
        _check_offered(turns, tools)
        messages = _messages(turns, tools)
    except ToolError as error:
        raise MisshapenError(str(error)) from None
    rest = {name: value for name, value in row.items() if name not in (*used, *_OFFERS)}
    return rest | {"messages": messages}


def _turns(row: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Any] | None]:
    """Return the columns that hold the conversation, and its messages; None where there are none.

    A completion that is a whole conversation begins with the prompt's turns.
    """
    if isinstance(row.get("messages"), list):
        return ("messages",), row["messages"]
    for asked, answered in _SHAPES:
        if row.get(asked) is not None and row.get(answered) is not None:
            prompt, answer = _column(row[asked], "user"), _column(row[answered], "assistant")
            if prompt is None or answer is None:
                return (), None
            is_whole = len(answer) > len(prompt) and answer[: len(prompt)] == prompt
            return (asked, answered), answer if is_whole else [*prompt, *answer]
    return (), None


def _column(value: Any, role: str) -> list[Any] | None:
    """Return a column's turns: messages, a turn's text, or of an answer its calls as a list."""
    calls = _listed_calls(value) if role == "assistant" else None
    if calls is not None:
        return [{"role": role, "tool_calls": calls}]
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict) and "role" in value:
        return [value]
    return value if isinstance(value, list) else None


def _listed_calls(value: Any) -> list[Any] | None:
    """Return the calls that an answer lists, or that its JSON does; None where it is another."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = read_json(value, "the answer")
        except ToolError:
            return None
    if not isinstance(value, list) or not value:
        return None
    are_calls = all(isinstance(item, dict) and item.keys() == _CALL_KEYS for item in value)
    return value if are_calls else None


def _is_of_tools(turn: object) -> bool:
    return isinstance(turn, dict) and (turn.get("role") in _RESULT_ROLES or _makes_calls(turn))


def _makes_calls(turn: Mapping[str, Any]) -> bool:
    return any(not is_empty(turn.get(name)) for name in _CALLS)


def _check_offered(turns: Sequence[Any], tools: Sequence[Tool]) -> None:
    """Check that what is called is offered.

    Raises:
        ToolError: it is not.
    """
    names = [tool.name for tool in tools]
    calls = [
        call
        for number, turn in enumerate(turns)
        if isinstance(turn, dict) and _makes_calls(turn)
        for _, call in _calls(turn, number)
    ]
    strange = unoffered(calls, names)
    if strange:
        raise ToolError(
            f"{strange[0]} is called, which is none of the row's tools "
            f"({', '.join(names[:_NAMED]) or 'none'}): a model would learn to call what it is not "
            "offered"
        )


def _messages(turns: Sequence[Any], tools: Sequence[Tool]) -> list[Any]:
    """Return the turns as texts: tools in the system's, calls in the assistant's, results in the
    user's.
    """
    found: list[Any] = []
    open_calls: list[tuple[str | None, Call]] = []
    results: dict[int, str] = {}
    for number, turn in enumerate(turns):
        if isinstance(turn, dict) and turn.get("role") in _RESULT_ROLES:
            results[_answered(turn, open_calls, results)] = _result(turn)
            continue
        if results:
            found.append(_results_turn(results))
            results, open_calls = {}, []
        if isinstance(turn, dict) and _is_of_tools(turn):
            open_calls = _calls(turn, number)
            found.append(_assistant_turn(turn, [call for _, call in open_calls]))
        else:
            open_calls = []
            found.append(turn)
    if results:
        found.append(_results_turn(results))
    return _with_system(found, tools)


def _with_system(turns: list[Any], tools: Sequence[Tool]) -> list[Any]:
    """Return the turns with the tools at the end of the first system turn."""
    if not tools:
        return turns
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    if first.get("role") not in ("system", "developer") or not isinstance(
        first.get("content"), str
    ):
        return [{"role": "system", "content": with_tools("", tools)}, *turns]
    return [first | {"content": with_tools(first["content"], tools)}, *turns[1:]]


def _calls(turn: Mapping[str, Any], number: int) -> list[tuple[str | None, Call]]:
    """Return the calls of a turn, each with its id if it has one."""
    if turn.get("role") != "assistant":
        raise ToolError(f"message {number} calls a tool and is not the assistant's")
    calls = turn.get("tool_calls") if not is_empty(turn.get("tool_calls")) else None
    listed = calls if calls is not None else [turn["function_call"]]
    if not isinstance(listed, list):
        raise ToolError(f"message {number} has tool_calls of {shown_value(listed)}")
    return [_call(item, number) for item in listed]


def _call(item: Any, number: int) -> tuple[str | None, Call]:
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict):
        raise ToolError(f"message {number} has the call {shown_value(item)}; expected a function")
    arguments = function.get("arguments")
    call = read_call(function.get("name"), {} if arguments in (None, "") else arguments)
    identifier = item.get("id")
    return (identifier if isinstance(identifier, str) else None), call


def _assistant_turn(turn: Mapping[str, Any], calls: Sequence[Call]) -> dict[str, Any]:
    words = turn.get("content")
    if words is not None and not isinstance(words, str):
        raise ToolError(f"a turn with calls has the content {shown_value(words)}; expected text")
    rest = {name: value for name, value in turn.items() if name not in _READ_KEYS}
    return rest | {"role": "assistant", "content": said_text((words or "").strip(), calls)}


def _answered(
    turn: Mapping[str, Any],
    calls: Sequence[tuple[str | None, Call]],
    known: Mapping[int, str],
) -> int:
    """Return the place of the call that a result is of: by its id, else the next one."""
    identifier = turn.get("tool_call_id")
    ids = [name for name, _ in calls]
    if identifier is not None and any(name is not None for name in ids):
        place = ids.index(identifier) if identifier in ids else -1
    else:
        place = len(known)
    if not 0 <= place < len(calls) or place in known:
        raise ToolError(
            f"a result (tool_call_id {shown_value(identifier)}) is of no call before it; expected "
            "each after the assistant's turn that makes the call, once"
        )
    return place


def _result(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise ToolError(f"a result has the content {shown_value(content)}; expected text")
    return content


def _results_turn(results: Mapping[int, str]) -> dict[str, Any]:
    """Return results in the order of their calls, whatever the order in which they came."""
    return {"role": "user", "content": results_text(results[at] for at in sorted(results))}


def request_turns(turns: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[Message]:
    """Return the turns of a request as texts.

    Raises:
        ToolError: a call is none, is of no tool that is offered, or a result is of no call.
    """
    return [Message(turn["role"], turn["content"]) for turn in _messages(turns, tools)]
