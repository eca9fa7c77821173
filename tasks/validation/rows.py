"""Raw rows as records and documents, or the reason why they are none."""

from collections.abc import Mapping
from typing import Any

from tasks.records.record import Document, Message, Record

UNKNOWN = "unknown"


class MisshapenError(Exception):
    """A row that is no record or document, and why."""


def parse_record(row: Mapping[str, Any], intake: str) -> Record:
    """The record that a raw row of any of the three shapes describes.

    Missing questions and answers become empty texts, for the rules on lengths to find.

    Raises:
        MisshapenError: a field is missing or of the wrong type.
    """
    identifier = _identifier(row)
    documents = _texts(row, "documents")
    default_group = documents[0] if documents else identifier
    return Record(
        id=identifier,
        messages=_messages(row),
        documents=documents,
        slice=_label(row, "slice", "all"),
        group=_text(row, "group", default_group),
        source=_label(row, "source", UNKNOWN),
        license=_label(row, "license", UNKNOWN),
        intake=intake,
    )


def parse_document(row: Mapping[str, Any]) -> Document:
    """The document that a raw row describes.

    Raises:
        MisshapenError: a field is missing or of the wrong type.
    """
    return Document(
        id=_identifier(row),
        text=_text(row, "text", ""),
        title=_text(row, "title", ""),
        source=_label(row, "source", UNKNOWN),
        license=_label(row, "license", UNKNOWN),
    )


def _identifier(row: Mapping[str, Any]) -> str:
    value = row.get("id")
    if not isinstance(value, str) or not value.strip():
        raise MisshapenError(f"id is {value!r}; expected a text that is not empty")
    return value


def _text(row: Mapping[str, Any], name: str, default: str) -> str:
    value = row.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise MisshapenError(f"{name} is {_shown(value)}; expected a text")
    return value


def _label(row: Mapping[str, Any], name: str, default: str) -> str:
    """A text to group rows by, without white space at its ends: "2" and "2 " are one."""
    return _text(row, name, default).strip() or default


def _texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MisshapenError(f"{name} is {_shown(value)}; expected a list of texts")
    return tuple(value)


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    if "messages" in row:
        return _conversation(row["messages"], "messages")
    if "prompt" in row or "completion" in row:
        return _turns(row, "prompt", "user") + _turns(row, "completion", "assistant")
    if "question" in row or "answer" in row:
        return _turns(row, "question", "user") + _turns(row, "answer", "assistant")
    raise MisshapenError(
        f"columns are {', '.join(sorted(row)) or 'none'}; expected question and answer, prompt and "
        "completion, or messages",
    )


def _turns(row: Mapping[str, Any], name: str, role: str) -> tuple[Message, ...]:
    if isinstance(row.get(name), list):
        return _conversation(row[name], name)
    return (Message(role, _text(row, name, "")),)


def _conversation(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise MisshapenError(f"{name} is {_shown(value)}; expected a list of messages")
    messages = []
    for item in value:
        role = item.get("role") if isinstance(item, dict) else None
        content = item.get("content") if isinstance(item, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise MisshapenError(
                f"{name} holds {_shown(item)}; expected a role and a content, both text",
            )
        messages.append(Message(role, content))
    return tuple(messages)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
