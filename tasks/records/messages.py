"""Messages as turns of a conversation: text alone, and whether an answer is to be learned."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.records.schema import Message

_TOOL_CALLS = ("tool_calls", "function_call")
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython")
# What says of a turn whether it is learned: OpenAI's weight, and other trainers' switches.
_LEARNED = ("weight", "train", "training", "loss")
_TEXT_PARTS = ("text", "input_text", "output_text")
_ROLES = {"developer": "system"}  # OpenAI's newer name
_PLAIN_ROLES = ("user", "assistant", "system")
NO = (0, "0", "0.0")
_AS_TEXT = "to read it as text, write `as_text: [{}]` under `columns` in params/ingestion.yaml"


class MisshapenError(Exception):
    """A row that is no record or document, and why."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, whether its row says that it is to be learned, and its keys that nobody reads."""

    message: Message
    learned: bool
    unread: tuple[str, ...]


def conversation(value: Any, name: str) -> list[Turn]:
    """Return the messages that column `name` holds as turns.

    Raises:
        MisshapenError: they are no list of messages, or hold what prompts can't show.
    """
    if not isinstance(value, list):
        raise MisshapenError(f"{name} is {shown_value(value)}; expected a list of messages")
    return [_turn(item, name) for item in value]


def _turn(item: Any, name: str) -> Turn:
    """Return one message as a turn.

    Raises:
        MisshapenError: it is none, or holds what prompts can't show.
    """
    role = item.get("role") if isinstance(item, dict) else None
    if isinstance(role, str):
        _refuse_tools(item, name, role)
    content = _content(item.get("content"), name) if isinstance(item, dict) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise MisshapenError(
            f"{name} holds {shown_value(item)}; expected a role and a content, both text",
        )
    marks = [item[key] for key in _LEARNED if item.get(key) is not None]
    learned = not any(mark in NO or truth(mark) is False for mark in marks)
    read = {"role", "content", *(key for key in _LEARNED if item.get(key) in (0, 1))}
    unread = tuple(f"{name}.{key}" for key in unread_columns(item, read))
    return Turn(Message(_ROLES.get(role, role), content), learned, unread)


def _refuse_tools(item: Mapping[str, Any], name: str, role: str) -> None:
    calls = [key for key in _TOOL_CALLS if not is_empty(item.get(key))]
    if not calls and role not in _TOOL_ROLES:
        return
    found = f"calls a tool ({calls[0]})" if calls else f"has the role {role}"
    raise MisshapenError(
        f"{name} holds a turn that {found}; prompts show turns of system, user and assistant "
        "alone, so the call and its result would be lost: train for them (`--set "
        "task.name=tools`), leave the row out, or write both into the turns as text"
    )


def _content(value: Any, name: str) -> Any:
    """Return a content that is a list of text parts as one text, a part a line.

    Raises:
        MisshapenError: a part is no text.
    """
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        match part:
            case str(text):
                texts.append(text)
            case {"type": kind, "text": str(text)} if kind in _TEXT_PARTS:
                texts.append(text)
            case _:
                kind = part.get("type") if isinstance(part, dict) else None
                raise MisshapenError(
                    f"{name} holds a content part of type {kind!r}; expected text alone, since the "
                    "models read nothing else: leave the row out"
                )
    return "\n".join(texts)


def plain_messages(value: Any) -> tuple[Message, ...] | None:
    """Return messages that have a role and a text alone, as most do; None where one has more."""
    messages: list[Message] = []
    for item in value if isinstance(value, list) else [None]:
        if not isinstance(item, dict) or len(item) != 2:
            return None
        role, content = item.get("role"), item.get("content")
        if role not in _PLAIN_ROLES or not isinstance(content, str):
            return None
        if role == "system" and messages:
            return None
        messages.append(Message(role, content))
    return tuple(messages)


def required_text(row: Mapping[str, Any], name: str, default: str) -> str:
    """Return a column's text, the default where it has none.

    Raises:
        MisshapenError: it is no text.
    """
    value = row.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise MisshapenError(not_a_text(name, value))
    return value


def not_a_text(name: str, value: object) -> str:
    """Return what is wrong with a value that is no text, and the setting that reads it as one."""
    said = f"{name} is {shown_value(value)}; expected a text"
    return f"{said}: {_AS_TEXT.format(name)}" if isinstance(value, int | float) else said


def shown_value(value: object) -> str:
    """Return a value's type and its beginning."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def unread_columns(row: Mapping[str, Any], read: Collection[str]) -> tuple[str, ...]:
    """Return the columns that hold something and are none of those that are read."""
    return tuple(name for name, value in row.items() if name not in read and not is_empty(value))


def is_empty(value: object) -> bool:
    """Return whether a value says nothing; as a table's text, too."""
    return value is None or value in ("", "[]", "{}", [], {})


def truth(value: object) -> bool | None:
    """Return a boolean, or the text of one as tables have it; None where it is none."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None
