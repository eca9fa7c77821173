"""What a chat request asks of tools: which are shown, and whether and which are to be called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.records.schema import Message
from tasks.records.tool_rows import request_turns
from tasks.records.tool_text import CALL, Tool, ToolError, read_tools
from tasks.serving.openai_api import RequestError

_MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class ToolChoice:
    """How a request's tools are to be used.

    `tools` are those that the prompt shows. The answer begins with the text `begins` where a call
    is required, and ends before the texts `stops` where none is allowed. `at_most` bounds the calls
    that are given back.
    """

    tools: tuple[Tool, ...] = ()
    begins: str = ""
    stops: tuple[str, ...] = ()
    at_most: int | None = None

    @property
    def may_call(self) -> bool:
        """Return whether calls in the answer are given back as calls."""
        return bool(self.tools)


NO_TOOLS = ToolChoice()


def tool_choice(body: Mapping[str, Any]) -> ToolChoice:
    """Return what a request asks of tools, for a model that was trained to call them.

    Raises:
        RequestError: a tool is none, or the choice can't be honoured.
    """
    tools, chosen = _tools(body.get("tools")), body.get("tool_choice")
    at_most = 1 if body.get("parallel_tool_calls") is False else None
    name = _chosen_name(chosen)
    if name is None and chosen is not None and chosen not in _MODES:
        raise _refused(
            f"tool_choice is neither {', '.join(map(repr, _MODES))} nor a function's name"
        )
    if not tools or chosen == "none":
        if name is not None or chosen == "required":
            raise _refused("tool_choice asks for a call, and tools holds none that could be called")
        return ToolChoice(stops=(CALL,))
    if name is None:
        begins = CALL if chosen == "required" else ""
        return ToolChoice(tools, begins, at_most=at_most)
    if name not in {tool.name for tool in tools}:
        raise _refused(f"tool_choice names {name[:64]!r}, which is none of tools")
    return ToolChoice(tools, f'{CALL}\n{{"name": "{name}", "arguments":', at_most=1)


def _tools(value: Any) -> tuple[Tool, ...]:
    try:
        return tuple(read_tools(value or []))
    except ToolError as error:
        raise RequestError(str(error), param="tools", code="invalid_value") from None


def _chosen_name(choice: Any) -> str | None:
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    return None


def _refused(message: str) -> RequestError:
    return RequestError(message, param="tool_choice", code="unsupported_value")


def ignored_of_tools(tools: Any) -> list[str]:
    """Return the names of what has no effect: nothing holds arguments to a schema."""
    functions = [tool.get("function") for tool in tools or () if isinstance(tool, dict)]
    is_strict = any(isinstance(one, dict) and one.get("strict") for one in functions)
    return ["tools.function.strict"] if is_strict else []


def turns_with_tools(messages: Sequence[Mapping[str, Any]], choice: ToolChoice) -> list[Message]:
    """Return a conversation's turns, in which tools, calls and results are texts.

    Raises:
        RequestError: a call is none, or a result is of no call.
    """
    try:
        return request_turns(messages, choice.tools)
    except ToolError as error:
        raise RequestError(str(error), param="messages", code="invalid_value") from None
