"""Tools, calls and their results as texts of a conversation, in the one form that models learn.

It is the form of Hermes and Qwen. The system turn ends with the tools, a call is a JSON object
between tags in the assistant's turn, and results stand between tags in the user's turn after it. So
every chat template renders it, and where a template of that form is given the same tools, its text
is the same.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecoder
from typing import Any

from tasks.records.readers import strict_json
from tasks.records.schema import Message

CALL, END_OF_CALL = "<tool_call>", "</tool_call>"
_RESULT, _END_OF_RESULT = "<tool_response>", "</tool_response>"
_BEFORE_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER_TOOLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_NAME = re.compile(r"[\w.:/-]{1,128}")
_LISTED = re.compile(
    rf'^{{"type": "function", "function": {{"name": "({_NAME.pattern})"', re.MULTILINE
)
# The order of a schema's keys, whatever order a row or a client has them in; others come after, by
# name. What is null, as tables fill their columns, says nothing.
_KEYS = ("type", "function", "name", "description", "parameters", "enum", "items", "properties")
_RANKS = {name: rank for rank, name in enumerate(_KEYS)}
_DECODER = JSONDecoder()
_REST = re.compile(rf"\s*(?:{END_OF_CALL}|\Z)")
_DEEPEST = 64
_SHOWN = 60


class ToolError(ValueError):
    """A tool or a call that can't be shown, and why."""


@dataclass(frozen=True)
class Tool:
    """A function that may be called: its name, and the line that tells a model of it."""

    name: str
    line: str


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def arguments_text(self) -> str:
        """Return the arguments as JSON, by name."""
        return json.dumps(self.arguments, ensure_ascii=False, sort_keys=True)

    @property
    def text(self) -> str:
        """Return the call as an assistant's turn holds it."""
        content = f'{{"name": {json.dumps(self.name)}, "arguments": {self.arguments_text}}}'
        return f"{CALL}\n{content}\n{END_OF_CALL}"


@dataclass(frozen=True)
class Said:
    """An assistant's turn taken apart: its words, its calls, and how many calls are no calls.

    `broken` are the texts of those: no JSON, or not an object with a name and arguments.
    """

    words: str
    calls: tuple[Call, ...]
    broken: tuple[str, ...] = ()

    @property
    def has_call(self) -> bool:
        """Return whether it tries to call anything."""
        return bool(self.calls or self.broken)


def read_tools(value: Any) -> list[Tool]:
    """Return the tools of a list in OpenAI's format, or of one of bare functions.

    Raises:
        ToolError: one is no function, or two have one name.
    """
    if isinstance(value, str):
        value = read_json(value, "tools")
    if not isinstance(value, list):
        raise ToolError(f"tools is {_kind(value)}; expected a list of functions")
    tools = [_read_tool(item, number) for number, item in enumerate(value)]
    names = [tool.name for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ToolError(f"two tools are called {twice[0]!r}; expected a name each")
    return tools


def _read_tool(item: Any, number: int) -> Tool:
    function = item.get("function", item) if isinstance(item, dict) else None
    kind = item.get("type", "function") if isinstance(item, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or (function is not item and kind != "function"):
        raise ToolError(f"tool {number} is {_kind(item)}; expected a function with its schema")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError(f"tool {number} has the name {_shown(name)}; {_EXPECTED_NAME}")
    for key, types in (("description", str), ("parameters", dict)):
        if function.get(key) is not None and not isinstance(function[key], types):
            raise ToolError(f"the {key} of tool {name} is {_kind(function[key])}; {_EXPECTED_TOOL}")
    shown = {key: value for key, value in function.items() if key not in ("strict", "type")}
    line = json.dumps(_ordered({"type": "function", "function": shown}), ensure_ascii=False)
    return Tool(name, line)


_EXPECTED_NAME = "expected 1 to 128 letters, digits and `_ . : / -`"
_EXPECTED_TOOL = "expected a text as description, and a JSON schema, an object, as parameters"


def _ordered(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ToolError(f"a tool is nested more than {_DEEPEST} deep")
    if isinstance(value, list):
        return [_ordered(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    keys = sorted(value, key=lambda key: (_RANKS.get(key, len(_RANKS)), key))
    return {key: _ordered(value[key], depth + 1) for key in keys if value[key] is not None}


def with_tools(system: str, tools: Sequence[Tool]) -> str:
    """Return a system turn that ends with the tools, and begins with its own text if it has any."""
    lines = "".join(f"\n{tool.line}" for tool in tools)
    shown = f"{_BEFORE_TOOLS}{lines}{_AFTER_TOOLS}" if tools else ""
    return "\n\n".join(filter(None, (system, shown)))


def is_tools_alone(system: str) -> bool:
    """Return whether a system turn shows tools and says nothing else."""
    return system.startswith(_BEFORE_TOOLS)


def offered(turns: Sequence[Message]) -> frozenset[str]:
    """Return the names of the tools that a conversation's system turn shows."""
    system = turns[0].content if turns and turns[0].role == "system" else ""
    shown = system.rpartition(_BEFORE_TOOLS)[2] if _BEFORE_TOOLS in system else ""
    return frozenset(_LISTED.findall(shown.partition(_AFTER_TOOLS)[0]))


def read_call(name: Any, arguments: Any) -> Call:
    """Return a call; the arguments are an object, or JSON that says one.

    Raises:
        ToolError: they are neither, or the name is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError(f"a call has the name {_shown(name)}; {_EXPECTED_NAME}")
    if isinstance(arguments, str):
        arguments = read_json(arguments, f"the text of the arguments of a call of {name}")
    if not isinstance(arguments, dict):
        raise ToolError(
            f"the arguments of a call of {name} are {_kind(arguments)}; expected a JSON object"
        )
    return Call(name, arguments)


def said_text(words: str, calls: Iterable[Call]) -> str:
    """Return an assistant's turn: its words, if any, and a block a call."""
    return "\n".join(filter(None, (words, *(call.text for call in calls))))


def results_text(results: Iterable[str]) -> str:
    """Return the results of calls as the user's turn that follows them."""
    return "\n".join(f"{_RESULT}\n{text}\n{_END_OF_RESULT}" for text in results)


def is_results(text: str) -> bool:
    """Return whether a turn holds results of calls."""
    return text.startswith(_RESULT) and text.rstrip().endswith(_END_OF_RESULT)


def question_of(turns: Sequence[Message]) -> str:
    """Return what the user asked last: results of calls ask nothing."""
    asked = [turn.content for turn in turns if turn.role == "user"]
    return next((text for text in reversed(asked) if not is_results(text)), asked[-1])


def read_said(text: str) -> Said:
    """Return what an assistant's turn says and calls."""
    words, calls, broken = [], [], []
    place = 0
    while (begin := text.find(CALL, place)) >= 0:
        words.append(text[place:begin])
        call, place = next_call(text, begin)
        if call is None:
            broken.append(text[begin:place])
        else:
            calls.append(call)
    words.append(text[place:])
    return Said("".join(words).strip(), tuple(calls), tuple(broken))


def given_back(text: str, at_most: int | None = None) -> tuple[str, tuple[Call, ...]]:
    """Return an answer as clients get it: its words, and its calls, at most so many.

    What is tagged as a call and is none stays among the words, so that nothing is lost.
    """
    words, calls, place = "", [], 0
    while (begin := text.find(CALL, place)) >= 0:
        words += text[place:begin]
        call, place = next_call(text, begin)
        if call is None:
            words += text[begin:place]
        else:
            calls.append(call)
    return (words + text[place:]).strip(), tuple(calls[:at_most])


def next_call(text: str, begin: int) -> tuple[Call | None, int]:
    """Return the call whose tag begins at a place, None where it is no call, and where it ends.

    A closing tag inside one of its texts ends nothing. One that ends with the text may lack it.
    """
    start = begin + len(CALL)
    start += len(text[start:]) - len(text[start:].lstrip())
    try:
        _, end = _DECODER.raw_decode(text, start)
        value, rest = strict_json(text[start:end]), _REST.match(text, end)
        match value:
            case {"name": name, "arguments": dict(arguments), **others} if rest and not others:
                return read_call(name, arguments), rest.end()
    except (ValueError, RecursionError):
        pass
    closing = text.find(END_OF_CALL, start)
    return None, len(text) if closing < 0 else closing + len(END_OF_CALL)


def read_json(text: str, what: str) -> Any:
    """Return what a text says as strict JSON.

    Raises:
        ToolError: it is none.
    """
    try:
        return strict_json(text)
    except ValueError as error:
        raise ToolError(f"{what} is no JSON ({error}): {_shown(text)}") from None


def unoffered(calls: Iterable[Call], names: Collection[str]) -> list[str]:
    """Return the names that are called and are none of the tools."""
    return [call.name for call in calls if call.name not in names]


def _kind(value: object) -> str:
    named = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return named.get(type(value), f"a {type(value).__name__}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
