"""Rows as others name their columns (Alpaca, ShareGPT) in our shapes, each with an id."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tasks.records.readers import Line, canonical_json, faulty_line
from tasks.records.text import normalise, text_sha256

# What tells a shape: Alpaca's `input` and `output` alone are anybody's names.
_TELLING = {
    "question": "question and answer",
    "answer": "question and answer",
    "prompt": "prompt and completion",
    "completion": "prompt and completion",
    "messages": "messages",
    "instruction": "Alpaca's instruction, input and output",
    "conversations": "ShareGPT's conversations",
}
_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
_DERIVED = "row-"
_DOCUMENT_DIGITS = 20
# 64 bits each of the question and of all the row.
_DIGITS = 16
_MADE_ID = re.compile(rf"{_DERIVED}[0-9a-f]{{{_DIGITS}}}-[0-9a-f]{{{_DIGITS}}}")


class _ShapeError(Exception):
    """Why a row is in none of the shapes."""


def record_line(line: Line) -> Line:
    """Return the line with its row in one of our three shapes and an id; at fault if it is none.

    A row without an id gets `row-`, the beginning of the SHA-256 of its question, and that of all
    its content: the same row has the same id every night, wherever in its source it stands, and one
    whose answer is corrected shares the first part, by which it is split. A number becomes text.
    """
    if line.row is None:
        return line
    try:
        row = _in_our_shape(line.row)
    except _ShapeError as error:
        return faulty_line(line.number, str(error), line.raw)
    if isinstance(row.get("documents"), list):
        row = dict(row) | {"documents": [_as_text(name) for name in row["documents"]]}
    return _identified(line, row, _record_id)


def document_line(line: Line) -> Line:
    """Return the line with an id: a document without one gets `row-` and a hash of its content."""
    return line if line.row is None else _identified(line, line.row, _document_id)


def has_derived_id(line: Line) -> bool:
    """Return whether the line's id was made of its content by `record_line` or `document_line`."""
    row = line.row or {}
    identifier = row.get("id")
    if not isinstance(identifier, str) or not identifier.startswith(_DERIVED):
        return False
    content = without_id(row)
    return identifier in (_record_id(content), _document_id(content))


def without_id(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's content, by which a row without an id is known."""
    return {name: value for name, value in row.items() if name != "id"}


def lasting_part(identifier: str) -> str:
    """Return what of an id stays when an answer is corrected: the question's part of a made one."""
    return identifier.rpartition("-")[0] if _MADE_ID.fullmatch(identifier) else identifier


def with_row(line: Line, row: Mapping[str, Any]) -> Line:
    """Return the line with another row."""
    return line if row == line.row else replace(line, raw=canonical_json(row), row=dict(row))


def question_digest(row: Mapping[str, Any]) -> str:
    """Return a hash of what a row in one of our shapes asks: all that its user says.

    Case, spacing and Unicode's form are set aside, and so is what the system and the assistant say.
    """
    asked = [normalise(content) for role, content in turns(row) if role == "user"]
    return text_sha256(*asked)[:_DIGITS]


def turns(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the roles and contents of a row in one of our shapes; what is no text is its JSON."""
    if "messages" in row:
        return _turns(row["messages"], "user")
    asked, answered = ("prompt", "completion") if "prompt" in row else ("question", "answer")
    return [*_turns(row.get(asked), "user"), *_turns(row.get(answered), "assistant")]


def _turns(value: object, role: str) -> list[tuple[str, str]]:
    """Return the turns of a list of messages; whatever is none is one turn of that role."""
    if not isinstance(value, list):
        return [_turn(value, role)]
    return [_turn(item, role) for item in value]


def _turn(value: object, role: str) -> tuple[str, str]:
    match value:
        case {"role": str(speaker), "content": str(content)}:
            return speaker, content
        case {"role": str(speaker)}:
            return speaker, _json(value)
        case str(text):
            return role, text
    return role, _json(value)


def _json(value: object) -> str:
    return canonical_json({"": value}).decode()


def _identified(
    line: Line, row: Mapping[str, Any], make_id: Callable[[Mapping[str, Any]], str]
) -> Line:
    """Return the line with this row, which gets an id of its content where it has none."""
    identifier = _as_text(row.get("id"))
    if identifier is None:
        row = without_id(row)
        identifier = make_id(row)
    return with_row(line, dict(row) | {"id": identifier})


def _record_id(row: Mapping[str, Any]) -> str:
    return f"{_DERIVED}{question_digest(row)}-{_content_digest(row)[:_DIGITS]}"


def _document_id(row: Mapping[str, Any]) -> str:
    return _DERIVED + _content_digest(row)[:_DOCUMENT_DIGITS]


def _content_digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(row)).hexdigest()


def _as_text(value: object) -> Any:
    """Return a whole number as text, anything else as it is: tables number their rows."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _in_our_shape(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row as question and answer, prompt and completion, or messages.

    Raises:
        _ShapeError: it has columns of two shapes, or lacks a part of the one it has.
    """
    told = [name for name in row if name in _TELLING and row[name] is not None]
    shapes = list(dict.fromkeys(_TELLING[name] for name in told))
    if len(shapes) > 1:
        raise _ShapeError(
            f"columns of {len(shapes)} shapes at once: {', '.join(told)} ({'; '.join(shapes)}); "
            "which is the example can't be told: rename the others under `columns` in params, "
            "e.g. prompt: other_prompt"
        )
    if "instruction" in told:
        return _from_alpaca(row)
    if "conversations" in told:
        return _from_sharegpt(row)
    return row


def _from_alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    match row:
        case {"instances": [{"input": _, "output": _} as only]} if row.get("output") is None:
            # Self-Instruct, from which Alpaca was made, lists an instruction's instances.
            row = {name: row[name] for name in row if name != "instances"} | only
    parts = {name: row.get(name) for name in ("instruction", "input", "output")}
    if parts["output"] is None:
        raise _ShapeError(
            f"instruction without output; columns are {', '.join(sorted(row))}: Alpaca's shape is "
            "instruction, input (which may be empty) and output, or one instance that holds both"
        )
    for name, value in parts.items():
        if value is not None and not isinstance(value, str):
            raise _ShapeError(f"{name} is a {type(value).__name__}; expected a text")
    question = "\n\n".join(filter(None, (parts["instruction"], parts["input"])))
    rest = {name: value for name, value in row.items() if name not in parts}
    return rest | {"question": question, "answer": parts["output"]}


def _from_sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise _ShapeError(f"conversations is a {type(turns).__name__}; expected a list of turns")
    rest = {name: value for name, value in row.items() if name != "conversations"}
    return rest | {"messages": [_message(turn) for turn in turns]}


def _message(turn: object) -> dict[str, str]:
    match turn:
        case {"from": str(speaker), "value": str(content)} if speaker in _ROLES:
            return {"role": _ROLES[speaker], "content": content}
        case {"from": str(speaker), "value": str()}:
            raise _ShapeError(
                f"a turn is from {speaker[:40]!r}; expected one of {', '.join(_ROLES)}"
            )
        case {"role": _, "content": _}:
            raise _ShapeError(
                "conversations holds turns of role and content: name the column messages under "
                "`columns` in params (conversations: messages)"
            )
    raise _ShapeError(
        "conversations holds a turn without the texts `from` and `value`; expected ShareGPT's"
    )
