"""Rows as others name their columns (Alpaca, ShareGPT) in our shapes, each with an id."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tasks.records.readers import Line, canonical_json, faulty_line

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
_ID_DIGITS = 20


class _ShapeError(Exception):
    """Why a row is in none of the shapes."""


def record_line(line: Line) -> Line:
    """Return the line with its row in one of our three shapes and an id; at fault if it is none.

    A row without an id gets `row-` and the beginning of the SHA-256 of its content, so that the
    same row has the same id every night, wherever in its source it stands. A number becomes text.
    """
    if line.row is None:
        return line
    try:
        row = _in_our_shape(line.row)
    except _ShapeError as error:
        return faulty_line(line.number, str(error), line.raw)
    if isinstance(row.get("documents"), list):
        row = dict(row) | {"documents": [_as_text(name) for name in row["documents"]]}
    return _identified(line, row)


def document_line(line: Line) -> Line:
    """Return the line with an id, as `record_line` gives it."""
    return line if line.row is None else _identified(line, line.row)


def has_derived_id(line: Line) -> bool:
    """Return whether the line's id was made of its content by `record_line` or `document_line`."""
    row = line.row or {}
    identifier = row.get("id")
    if not isinstance(identifier, str) or not identifier.startswith(_DERIVED):
        return False
    return identifier == _derived_id({name: row[name] for name in row if name != "id"})


def _identified(line: Line, row: Mapping[str, Any]) -> Line:
    """Return the line with this row, which gets an id where it has none."""
    identifier = _as_text(row.get("id"))
    if identifier is None:
        row = {name: value for name, value in row.items() if name != "id"}
        identifier = _derived_id(row)
    row = dict(row) | {"id": identifier}
    if row == line.row:
        return line
    return replace(line, raw=canonical_json(row), row=row)


def _derived_id(row: Mapping[str, Any]) -> str:
    return _DERIVED + hashlib.sha256(canonical_json(row)).hexdigest()[:_ID_DIGITS]


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
