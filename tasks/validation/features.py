"""Rows as flat features: the columns that the rules of records and documents speak of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
from ftfy.badness import badness

from tasks.records.files import document_line, record_line
from tasks.records.record import Document, Record
from tasks.records.scripts import count_scripts
from tasks.validation.merging import Current
from tasks.validation.rows import MisshapenError, parse_document, parse_record

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
class Row:
    """A current row, read: its features, and its line in an accepted file; None where unreadable.

    `names` are the documents that a record refers to, `scripts` its letters by script, `text` what
    is profiled of it.
    """

    intake: Path
    number: int
    raw: bytes
    features: dict[str, Any]
    line: bytes | None
    names: tuple[str, ...]
    scripts: tuple[int, ...]
    text: str


def read_record(current: Current) -> Row:
    """A current row of `records.jsonl`; whether its documents exist is not said yet."""
    return _read(current, _record_row)


def read_document(current: Current) -> Row:
    """A current row of `documents.jsonl`."""
    return _read(current, _document_row)


def _read(current: Current, read: Any) -> Row:
    line = current.line
    features = {"id": current.id, "id_rows": current.id_rows, "json_fault": line.fault}
    if line.row is not None:
        try:
            row: Row = read(current, features)
            return row
        except MisshapenError as error:
            features["schema_fault"] = str(error)
    return Row(current.intake, line.number, line.raw, features, None, (), (), "")


def _record_row(current: Current, features: dict[str, Any]) -> Row:
    record = parse_record(current.line.row or {}, current.intake.name)
    question, answer = _turn(record, -2), _turn(record, -1)
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
    return Row(
        current.intake,
        current.line.number,
        current.line.raw,
        features,
        record_line(record),
        record.documents,
        scripts,
        f"{question}\n{answer}",
    )


def _document_row(current: Current, features: dict[str, Any]) -> Row:
    document = parse_document(current.line.row or {})
    text = f"{document.title}\n{document.text}"
    scripts = count_scripts(text)
    features |= {
        "text_characters": len(document.text.strip()),
        "title_characters": len(document.title.strip()),
    }
    features |= _health(document, text, scripts)
    line = document_line(document)
    number, raw = current.line.number, current.line.raw
    return Row(current.intake, number, raw, features, line, (), scripts, "")


def _health(value: Record | Document, text: str, scripts: tuple[int, ...]) -> dict[str, Any]:
    """What is common to both: where it is from, its encoding and its scripts."""
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


def _turn(record: Record, position: int) -> str:
    messages = record.messages
    return messages[position].content.strip() if len(messages) >= -position else ""
