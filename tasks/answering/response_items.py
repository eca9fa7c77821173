"""A conversation as MLflow's Responses API has it, tools and calls included."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.records.schema import Message
from tasks.records.tool_rows import request_turns
from tasks.records.tool_text import ToolError, read_tools
from tasks.stage.errors import ConfigError


def shown_tools(tools: Sequence[Any], choice: Any, *, calls_tools: bool) -> list[Any]:
    """Return the tools that a request lets be called.

    Raises:
        ConfigError: it offers some and the model was not trained to call tools, or asks for a call.
    """
    if tools and not calls_tools:
        raise ConfigError(
            f"the request offers {len(tools)} tools, and the model was not trained to call any",
            "ask without tools, or train for them (`--set task.name=tools`)",
        )
    if choice not in (None, "auto", "none"):
        raise ConfigError(
            "tool_choice asks for a call, which is not honoured here",
            "leave it out, or ask `nightloom serve`",
        )
    return [] if choice == "none" else list(tools)


def conversation(items: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> list[Message]:
    """Return a request's turns; the last must be the user's, or the result of a call.

    Raises:
        ConfigError: it is not, a tool or a call is none, or a result is of no call.
    """
    rows: list[dict[str, Any]] = []
    for item in items:
        match item.get("type"):
            case "function_call":
                _add_call(rows, item)
            case "function_call_output":
                result = {"tool_call_id": item.get("call_id"), "content": _text(item.get("output"))}
                rows.append({"role": "tool", **result})
            case _:
                rows.append({"role": str(item.get("role")), "content": _text(item.get("content"))})
    try:
        turns = request_turns(rows, read_tools(list(tools)))
    except ToolError as error:
        raise ConfigError(
            str(error), "send tools and calls as OpenAI's Responses API has them"
        ) from None
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise ConfigError(
            "the request does not end with a user's turn that has text; there is nothing to answer",
            'send {"input": [{"role": "user", "content": "..."}]}',
        )
    return turns


def _add_call(rows: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    """Add a call to the assistant's turn before it, or as one."""
    if not rows or rows[-1]["role"] != "assistant":
        rows.append({"role": "assistant", "content": ""})
    call = {"id": item.get("call_id"), "function": item}
    rows[-1].setdefault("tool_calls", []).append(call)


def _text(content: object) -> str:
    """Return the text of a turn; its content is a string or a list of parts, some of them text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
