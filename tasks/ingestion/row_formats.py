"""Rows as others name their columns (Alpaca, ShareGPT) in our shapes, each with an id.

What these shapes leave beside the question (a system's text, a history, weights) stays in the row:
`tasks.records.turns` reads it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tasks.ingestion.row_ids import document_id, identified, record_id
from tasks.records.columns import identifier_text
from tasks.records.messages import MisshapenError, not_a_text, unread_columns
from tasks.records.readers import Line, faulty_line, strict_json
from tasks.records.turns import DOCUMENT_COLUMNS, UnlearnedError, chosen_is_no_answer, read_turns

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
# Columns whose text may hold JSON messages; those of `_LISTS` hold nothing else.
_CONVERSATIONS = ("messages", "conversations")
_TURNS = ("prompt", "completion", "question", "answer", "rejected_answer", "history")
_LISTS = (*_CONVERSATIONS, "history")
# A conversation that its completion ends.
_OPEN = (["completion", "conversations"], ["completion", "messages"])
_BEGIN = ("[", "{", " ", "\n", "\r", "\t")
_MESSAGE_KEYS = frozenset({"role", "from"})
_BEGINS_AS_MESSAGES = re.compile(r"""\s*\[?\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")


class _ShapeError(Exception):
    """Why a row is in none of the shapes."""


def record_line(line: Line) -> Line:
    """Return the line with its row in one of our three shapes and an id; at fault if it is none.

    A row without an id gets one of its content, as `tasks.ingestion.row_ids` tells. A whole number
    becomes text, and the name of one document a list. A row that has our shape stays as it is.
    """
    if line.row is None:
        return line
    try:
        shaped = _in_our_shape(_with_messages(line.row, _CONVERSATIONS))
        row = _with_documents(_with_our_turns(_with_messages(shaped, _TURNS)))
    except _ShapeError as error:
        return replace(faulty_line(line.number, str(error), line.raw), mapped=line.mapped)
    named, unread = identified(line, row, record_id), _unread(row)
    return replace(named, unread=unread) if unread else named


def document_line(line: Line) -> Line:
    """Return the line with an id, as `record_line` gives it."""
    if line.row is None:
        return line
    named = identified(line, line.row, document_id)
    unread = unread_columns(line.row, DOCUMENT_COLUMNS)
    return replace(named, unread=unread) if unread else named


def _unread(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what of a record nobody reads; nothing of one that validation refuses by name."""
    try:
        return read_turns(row, reads_tools=True).unread
    except (MisshapenError, UnlearnedError):
        return ()


def _with_documents(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row with the documents that it names as a list of texts."""
    match row.get("documents"):
        case list(names):
            return dict(row) | {"documents": list(map(identifier_text, names))}
        case bool():
            return row
        case str() | int() | float() as name:
            return dict(row) | {"documents": [identifier_text(name)]}
    return row


def _with_messages(row: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """Return the row with the messages that its texts hold as JSON, as cells of tables do.

    Raises:
        _ShapeError: a text begins as messages do and is no JSON.
    """
    found = {}
    for name in names:
        text = row.get(name)
        if isinstance(text, str) and text[:1] in _BEGIN and text.lstrip()[:1] in ("[", "{"):
            found[name] = _read_messages(name, text)
    return dict(row) | found if found else row


def _read_messages(name: str, text: str) -> Any:
    """Return the messages that a text holds, or the text itself where it is a plain one."""
    try:
        value = strict_json(text)
    except ValueError as error:
        if name not in _LISTS and not _BEGINS_AS_MESSAGES.match(text):
            return text
        raise _ShapeError(
            f"column {name} begins like a JSON list and is none: {error}; write it with "
            "`json.dumps` (Python's own form, with single quotes, is no JSON)"
        ) from None
    turns = value if isinstance(value, list) else [value]
    are_messages = bool(turns) and all(
        isinstance(turn, dict) and not _MESSAGE_KEYS.isdisjoint(turn) for turn in turns
    )
    return value if are_messages or (name in _LISTS and isinstance(value, list)) else text


def _in_our_shape(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row as question and answer, prompt and completion, or messages.

    Raises:
        _ShapeError: it has columns of two shapes, or lacks a part of the one it has.
    """
    told = [name for name in row if name in _TELLING and row[name] is not None]
    shapes = list(dict.fromkeys(_TELLING[name] for name in told))
    if len(shapes) > 1:
        turns = row.get("messages", row.get("conversations"))
        if sorted(told) in _OPEN and not _is_answered(turns):
            return _with_completion(row)
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
    if parts["output"] is None and row.get("chosen"):
        raise _ShapeError(chosen_is_no_answer(row))
    if parts["output"] is None:
        raise _ShapeError(
            f"instruction without output; columns are {', '.join(sorted(row))}: Alpaca's shape is "
            "instruction, input (which may be empty) and output, or one instance that holds both"
        )
    for name, value in parts.items():
        if value is not None and not isinstance(value, str):
            raise _ShapeError(not_a_text(name, value))
    question = "\n\n".join(filter(None, (parts["instruction"], parts["input"])))
    rest = {name: value for name, value in row.items() if name not in parts}
    return rest | {"question": question, "answer": parts["output"]}


def _with_our_turns(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row with ShareGPT's turns in ours, wherever else they stand.

    Raises:
        _ShapeError: one is from nobody that we know.
    """
    found = {
        name: _our_turns(row[name])
        for name in ("messages", *_TURNS)
        if isinstance(row.get(name), list | dict)
    }
    return dict(row) | found if found else row


def _our_turns(value: Any) -> Any:
    if isinstance(value, list):
        return [_our_turns(turn) if isinstance(turn, dict) else turn for turn in value]
    return _message(value) if "from" in value and "role" not in value else value


def _is_answered(turns: object) -> bool:
    """Return whether the last turn of a conversation is an answer."""
    last = turns[-1] if isinstance(turns, list) and turns else None
    role = (last.get("role") or last.get("from")) if isinstance(last, dict) else None
    return _ROLES.get(str(role)) == "assistant"


def _with_completion(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a conversation that a completion ends, as prompt and completion."""
    if row.get("conversations") is not None:
        row = _from_sharegpt(row)
    rest = {name: value for name, value in row.items() if name != "messages"}
    return rest | {"prompt": row["messages"]}


def _from_sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise _ShapeError(f"conversations is a {type(turns).__name__}; expected a list of turns")
    rest = {name: value for name, value in row.items() if name != "conversations"}
    return rest | {"messages": [_message(turn) for turn in turns]}


def _message(turn: object) -> dict[str, Any]:
    match turn:
        case {"from": str(speaker), "value": str(content), **more} if speaker in _ROLES:
            kept = {str(name): value for name, value in more.items() if value not in (None, "")}
            return kept | {"role": _ROLES[speaker], "content": content}
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
