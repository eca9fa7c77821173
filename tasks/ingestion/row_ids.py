"""Ids of rows that have none of their own: made of what they ask and of all that they hold.

`row-`, 16 hex digits of a hash of the question, by which the row is split, and 16 of one of all
its content. So the same row has the same id every night, wherever in its source it stands, and one
whose answer is corrected shares the first part. Documents ask nothing: theirs are `row-` and 20
digits of the content, as all rows had them once.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tasks.records.columns import identifier_text
from tasks.records.readers import Line, canonical_json
from tasks.records.text import normalise, text_sha256
from tasks.records.turns import asked_turns

_MADE = "row-"
_DOCUMENT_DIGITS = 20
# 64 bits each of the question and of all the row.
_DIGITS = 16
_RECORD_ID = re.compile(rf"{_MADE}[0-9a-f]{{{_DIGITS}}}-[0-9a-f]{{{_DIGITS}}}")
_EARLIER_ID = re.compile(rf"{_MADE}[0-9a-f]{{{_DOCUMENT_DIGITS}}}")


def identified(
    line: Line, row: Mapping[str, Any], make_id: Callable[[Mapping[str, Any]], str]
) -> Line:
    """Return the line with this row, which gets an id of its content where it has none."""
    identifier = identifier_text(row.get("id"))
    if identifier is None:
        row = without_id(row)
        identifier = make_id(row)
    return with_row(line, dict(row) | {"id": identifier})


def record_id(row: Mapping[str, Any]) -> str:
    """Return the id of a record without one, in one of our shapes."""
    return f"{_MADE}{question_digest(row)}-{_content_digest(row)[:_DIGITS]}"


def document_id(row: Mapping[str, Any]) -> str:
    """Return the id of a document without one."""
    return _MADE + _content_digest(row)[:_DOCUMENT_DIGITS]


def has_made_form(identifier: str) -> bool:
    """Return whether an id looks like one that was made of content, now or before."""
    return bool(_RECORD_ID.fullmatch(identifier) or _EARLIER_ID.fullmatch(identifier))


def has_derived_id(line: Line) -> bool:
    """Return whether the id of a line in one of our shapes was made of its content."""
    row = line.row or {}
    identifier = row.get("id")
    if not isinstance(identifier, str) or not identifier.startswith(_MADE):
        return False
    content = without_id(row)
    return identifier in (record_id(content), document_id(content))


def question_digest(row: Mapping[str, Any]) -> str:
    """Return a hash of what a row in one of our shapes asks: all that its user says.

    Case, spacing and Unicode's form are set aside, and so is what the system and the assistant say.
    Where what it asks can't be read, it is a hash of the whole row.
    """
    turns = asked_turns(row)
    if turns is None:
        return _content_digest(without_id(row))[:_DIGITS]
    asked = [normalise(turn.content) for turn in turns if turn.role == "user"]
    return text_sha256(*asked)[:_DIGITS]


def lasting_part(identifier: str) -> str:
    """Return what of an id stays when an answer is corrected: the question's part of a made one."""
    return identifier.rpartition("-")[0] if _RECORD_ID.fullmatch(identifier) else identifier


def without_id(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's content, by which a row without an id is known."""
    return {name: value for name, value in row.items() if name != "id"}


def with_row(line: Line, row: Mapping[str, Any]) -> Line:
    """Return the line with another row."""
    return line if row == line.row else replace(line, raw=canonical_json(row), row=dict(row))


def _content_digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(row)).hexdigest()
