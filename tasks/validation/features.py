"""Raw rows as records and documents, and the flat features of each that the rules speak of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import regex
from ftfy.badness import badness

from tasks.records.messages import (
    MisshapenError,
    not_a_text,
    required_text,
    shown_value,
    unread_columns,
)
from tasks.records.schema import (
    NO_SLICE,
    Document,
    Message,
    Record,
    document_line,
    record_line,
    source_slice,
)
from tasks.records.text import id_form, normalise, text_sha256
from tasks.records.turns import DOCUMENT_COLUMNS, Turns, UnlearnedError, read_turns
from tasks.validation.raw_rows import CurrentRow

UNKNOWN = "unknown"
# In this order; `other` is every letter of any other script.
SCRIPTS = ("latin", "hangul", "han", "kana", "other")

_KINDS = regex.compile(
    r"(?P<latin>\p{Latin})|(?P<hangul>\p{Hangul})|(?P<han>\p{Han})"
    r"|(?P<kana>[\p{Hiragana}\p{Katakana}\u30fc])|(?P<other>\p{L})"
)
_ASCII_LETTERS = regex.compile("[A-Za-z]+")

# An id that ingestion made: of the question, which decides the split, and of the whole row.
_QUESTION_DIGITS = 16
_MADE_ID = regex.compile(
    rf"(?P<question>row-[0-9a-f]{{{_QUESTION_DIGITS}}})-[0-9a-f]{{{_QUESTION_DIGITS}}}"
)


def parse_record(
    row: Mapping[str, Any],
    intake: str,
    source: str | None = None,
    *,
    is_feedback: bool = False,
    reads_tools: bool = False,
) -> Record:
    """Return the record that a raw row of any of the three shapes describes.

    Missing questions and answers become empty texts, for the rules on lengths to find. Ids are in
    NFC, whatever form the row has them in. `source` is the name of the row's source where a night
    has several: its slice begins with that name.

    Raises:
        MisshapenError: a field is missing, of the wrong type, or would be learned wrongly.
        UnlearnedError: the row says that it is not to be learned from.
    """
    turns = read_turns(row, reads_tools=reads_tools)
    return _record(row, turns, intake, source, is_feedback=is_feedback)


def _record(
    row: Mapping[str, Any], turns: Turns, intake: str, source: str | None, *, is_feedback: bool
) -> Record:
    identifier = _required_id(row)
    documents = tuple(map(id_form, _texts(row, "documents")))
    if documents:
        default_group = documents[0]
    else:
        default_group = _asked_group(turns.messages) if is_feedback else _own_group(identifier)
    return Record(
        id=identifier,
        messages=turns.messages,
        documents=documents,
        slice=_slice(_label(row, "slice", NO_SLICE), source),
        group=id_form(required_text(row, "group", default_group)),
        source=_label(row, "source", UNKNOWN),
        license=_label(row, "license", UNKNOWN),
        intake=intake,
        is_feedback=is_feedback,
        rejected=turns.rejected,
    )


def parse_document(row: Mapping[str, Any]) -> Document:
    """Return the document that a raw row describes.

    Raises:
        MisshapenError: a field is missing or of the wrong type.
    """
    return Document(
        id=_required_id(row),
        text=required_text(row, "text", ""),
        title=required_text(row, "title", ""),
        source=_label(row, "source", UNKNOWN),
        license=_label(row, "license", UNKNOWN),
    )


def _slice(own: str, source: str | None) -> str:
    """Return the slice that a record is reported under."""
    return own if source is None else source_slice(source, own)


def _own_group(identifier: str) -> str:
    """Return what decides the split of a row that belongs to no group and no document.

    It is the id, of one that was made of the row the question's part: a corrected answer stays.
    """
    made = _MADE_ID.fullmatch(identifier)
    return str(made["question"]) if made else identifier


def _asked_group(messages: Sequence[Message]) -> str:
    """Return what decides the split of a served question: all that its user says.

    However often it is asked, and whatever is said to be right, it is in one split; in that of a
    row without an id that asks the same, too, since ingestion makes such ids in the same way.
    """
    asked = [normalise(message.content) for message in messages if message.role == "user"]
    return f"row-{text_sha256(*asked)[:_QUESTION_DIGITS]}"


def _required_id(row: Mapping[str, Any]) -> str:
    value = row.get("id")
    if isinstance(value, int | float):
        raise MisshapenError(not_a_text("id", value))
    if not isinstance(value, str) or not value.strip():
        raise MisshapenError(f"id is {value!r}; expected a text that is not empty")
    return id_form(value)


def _label(row: Mapping[str, Any], name: str, default: str) -> str:
    """Return a text to group rows by, without white space at its ends: "2" and "2 " are one."""
    return required_text(row, name, default).strip() or default


def _texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MisshapenError(f"{name} is {shown_value(value)}; expected a list of texts")
    return tuple(value)


_SHARED = (
    "id",  # the row's id; null where it has none
    "id_rows",  # how many current rows have this id
    "json_fault",  # why the line is no strict JSON; null where it is
    "schema_fault",  # which column is missing or of another type; null where none is
    "source",
    "license",
    "replacement_characters",  # how many characters are U+FFFD
    "mojibake_share",  # ftfy's badness a character
    "latin_share",  # of the letters; null where there are none
    "hangul_share",
    "han_share",
    "kana_share",
    "other_script_share",
)

RECORD_FEATURES = (
    *_SHARED,
    "question_characters",  # of the user's last turn, without white space at the ends
    "answer_characters",  # of the assistant's last turn
    "answer_is_question",  # 1 where the two are the same text
    "roles",  # such as `system user assistant`
    "turns",
    "slice",
    "documents",  # how many documents the record names
    "missing_documents",  # how many of them are not among the accepted ones
)

DOCUMENT_FEATURES = (*_SHARED, "text_characters", "title_characters")

# What is text, or null; every other feature is a number, or null.
TEXT_FEATURES = frozenset(
    {"id", "json_fault", "schema_fault", "source", "license", "roles", "slice"}
)

_LOST = "\ufffd"

# Anything but ASCII, Hangul, kana, Han and full-width forms: without it no text is mojibake, and
# ftfy's heuristic takes a tenth of a millisecond.
_ODD = regex.compile(r"[^\x00-\x7f\u1100-\u11ff\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]")


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A current row, read: its features, and its line in an accepted file; None where unreadable.

    `names` are the documents that a record refers to, `scripts` its letters by script, `text` what
    is profiled of it. `unread` are its columns and message keys that nobody reads. `unlearned` says
    how the row asks not to be learned from, None where it does not.
    """

    intake: Path
    number: int
    raw: bytes
    features: dict[str, Any]
    line: bytes | None
    names: tuple[str, ...]
    scripts: tuple[int, ...]
    text: str
    unread: tuple[str, ...] = ()
    unlearned: str | None = None


def read_record(current: CurrentRow, *, reads_tools: bool = False) -> FeatureRow:
    """Return a current row of `records.jsonl`; whether its documents exist is not said yet.

    Rows of tools are read where it `reads_tools`, else they are faulty.
    """
    return _read_row(current, partial(_record_row, reads_tools=reads_tools))


def read_document(current: CurrentRow) -> FeatureRow:
    """Return a current row of `documents.jsonl`."""
    return _read_row(current, _document_row)


def _read_row(current: CurrentRow, read: Any) -> FeatureRow:
    line = current.line
    features = {"id": current.id, "id_rows": current.id_rows, "json_fault": line.fault}
    unlearned = None
    if line.row is not None:
        try:
            row: FeatureRow = read(current, features)
            return row
        except MisshapenError as error:
            features["schema_fault"] = str(error)
        except UnlearnedError as error:
            unlearned = str(error)
    return FeatureRow(
        current.intake, line.number, line.raw, features, None, (), (), "", (), unlearned
    )


def _record_row(current: CurrentRow, features: dict[str, Any], *, reads_tools: bool) -> FeatureRow:
    row = current.line.row or {}
    turns = read_turns(row, reads_tools=reads_tools)
    record = _record(
        row, turns, current.intake.name, current.source, is_feedback=current.is_feedback
    )
    question, answer = _turn_text(record, -2), _turn_text(record, -1)
    text = "\n".join([message.content for message in record.messages])
    scripts = count_scripts(text)
    features |= {
        "question_characters": len(question),
        "answer_characters": len(answer),
        "answer_is_question": int(question == answer),
        "roles": " ".join([message.role for message in record.messages]),
        "turns": len(record.messages),
        "slice": record.slice,
        "documents": len(record.documents),
    }
    features |= _health(record, text, scripts)
    return FeatureRow(
        current.intake,
        current.line.number,
        current.line.raw,
        features,
        record_line(record),
        record.documents,
        scripts,
        f"{question}\n{answer}",
        turns.unread,
    )


def _document_row(current: CurrentRow, features: dict[str, Any]) -> FeatureRow:
    row = current.line.row or {}
    document = parse_document(row)
    text = f"{document.title}\n{document.text}"
    scripts = count_scripts(text)
    features |= {
        "text_characters": len(document.text.strip()),
        "title_characters": len(document.title.strip()),
    }
    features |= _health(document, text, scripts)
    line = document_line(document)
    number, raw = current.line.number, current.line.raw
    unread = unread_columns(row, DOCUMENT_COLUMNS)
    return FeatureRow(current.intake, number, raw, features, line, (), scripts, "", unread)


def _health(value: Record | Document, text: str, scripts: tuple[int, ...]) -> dict[str, Any]:
    """Return what is common to both: where it is from, its encoding and its scripts."""
    letters = sum(scripts)
    latin, hangul, han, kana, other = (
        (count / letters for count in scripts) if letters else (None,) * len(scripts)
    )
    return {
        "source": value.source,
        "license": value.license,
        "replacement_characters": text.count(_LOST),
        # Lost characters are counted above; the heuristic would count them again.
        "mojibake_share": badness(text.replace(_LOST, "")) / len(text)
        if _ODD.search(text)
        else 0.0,
        "latin_share": latin,
        "hangul_share": hangul,
        "han_share": han,
        "kana_share": kana,
        "other_script_share": other,
    }


def _turn_text(record: Record, position: int) -> str:
    messages = record.messages
    return messages[position].content.strip() if len(messages) >= -position else ""


def count_scripts(text: str) -> tuple[int, ...]:
    """Return how many letters of a text belong to each of `SCRIPTS`, in their order.

    By Unicode alone: it tells Korean from Chinese from English without a model, and no languages
    of one script, such as English and German.
    """
    if text.isascii():
        return (sum(map(len, _ASCII_LETTERS.findall(text))), 0, 0, 0, 0)
    counts = [0] * len(SCRIPTS)
    for character, count in Counter(text).items():
        place = _script(character)
        if place is not None:
            counts[place] += count
    return tuple(counts)


@cache
def _script(character: str) -> int | None:
    """Return the position of a character's script in `SCRIPTS`, None where it is no letter."""
    match = _KINDS.match(character)
    return SCRIPTS.index(match.lastgroup) if match and match.lastgroup else None
