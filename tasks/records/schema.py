"""Records and documents as every stage after validation knows them, and files of them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import orjson

from tasks.records.text import id_form

ServedModel = Literal["adapter", "student"]  # the two models that a night makes and serves

SPLITS = ("train", "validation", "test")

# Feedback that is held out: never learned from, and never among what a champion is judged by.
FEEDBACK_SPLIT = "feedback"

CURATED_SPLITS = (*SPLITS, FEEDBACK_SPLIT)

# Written by validation and read by curation: where each accepted record came from.
PLACES_FILE = "places.parquet"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One example: a conversation whose last turn is the assistant's answer.

    `documents` are the ids of the documents that hold the answer, empty where none does;
    `slice` is a label to report by, which begins with the name of the record's source where a night
    has several; `group` is what a split keeps together; `source` is what the row says of itself.
    `is_feedback` says that it was read as a served question whose right answer people have given;
    `rejected` is an answer that is worse than the record's own, empty where none is known.
    """

    id: str
    messages: tuple[Message, ...]
    documents: tuple[str, ...]
    slice: str
    group: str
    source: str
    license: str
    intake: str
    is_feedback: bool = False
    rejected: str = ""

    @property
    def question(self) -> str:
        """Return the user's last turn."""
        return self.messages[-2].content

    @property
    def answer(self) -> str:
        """Return the assistant's last turn."""
        return self.messages[-1].content

    def as_row(self) -> dict[str, Any]:
        """Return the record as a JSON object, without what only few records have."""
        return {name: value for name, value in asdict(self).items() if name in _written(self)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Record":
        """Return the record that a JSON object written by `as_row` describes."""
        messages = tuple([Message(**message) for message in row["messages"]])
        documents = tuple(map(id_form, row["documents"]))
        return cls(**row | {"messages": messages, "documents": documents})


# So that rows of a time without feedback, and all others, stay what they are, byte for byte.
_AT_TIMES = ("is_feedback", "rejected")
_ALWAYS_WRITTEN = tuple(item.name for item in fields(Record) if item.name not in _AT_TIMES)


def _written(record: Record) -> tuple[str, ...]:
    """Return the names of what is written of a record."""
    return (*_ALWAYS_WRITTEN, *(name for name in _AT_TIMES if getattr(record, name)))


@dataclass(frozen=True, slots=True)
class Document:
    """One text that answers may be drawn from.

    `is_correction`: the title is a question and the text its answer, as somebody corrected it.
    """

    id: str
    text: str
    title: str
    source: str
    license: str
    is_correction: bool = False

    def as_row(self) -> dict[str, Any]:
        """Return the document as a JSON object; `is_correction` stands there where it is true."""
        return without_false(asdict(self), "is_correction")

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Document":
        """Return the document that a JSON object written by `as_row` describes."""
        content = {"is_correction": False} | row
        return cls(**{item.name: content[item.name] for item in fields(cls)})


def without_false(row: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a row without a mark that is false: rows that never had it keep their bytes."""
    return {key: value for key, value in row.items() if key != name or value}


# The slice of a record that has no label.
NO_SLICE = "all"


def source_slice(source: str, own: str) -> str:
    """Return the slice of a record of one of several sources, with its own label if it has one."""
    return source if own == NO_SLICE else f"{source}.{own}"


def slice_source(label: str) -> str:
    """Return the source that a slice made by `source_slice` names."""
    return label.partition(".")[0]


def own_slice(label: str) -> str:
    """Return the label of its own that a record has whose slice `source_slice` made."""
    return label.partition(".")[2] or NO_SLICE


def stream_records(path: Path) -> Iterator[Record]:
    """Return the records of a file that `write_records` wrote, one at a time, in its order."""
    return (Record.from_row(row) for row in read_rows(path))


def read_records(path: Path) -> list[Record]:
    """Return the records of a file that `write_records` wrote, in its order."""
    return list(stream_records(path))


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Return how many records were written."""
    return _write(path, map(record_line, records))


def record_line(record: Record) -> bytes:
    """Return a record as a line of its file, newline included."""
    return _line({name: getattr(record, name) for name in _written(record)})


def stream_documents(path: Path) -> Iterator[Document]:
    """Return the documents of a file that `write_documents` wrote, one at a time, in its order."""
    return (Document.from_row(row) for row in read_rows(path))


def read_documents(path: Path) -> list[Document]:
    """Return the documents of a file that `write_documents` wrote, in its order."""
    return list(stream_documents(path))


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Return how many documents were written."""
    return _write(path, map(document_line, documents))


def document_line(document: Document) -> bytes:
    """Return a document as a line of its file, newline included."""
    return _line(document)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one a line."""
    with path.open("rb") as stream:
        for line in stream:
            yield orjson.loads(line)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Return how many objects were written, one a line, as UTF-8."""
    # Not orjson: it would write a number that is not finite as null, and say nothing.
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)
    return _write(path, lines)


def _line(value: Record | Document | dict[str, Any]) -> bytes:
    # orjson leaves the 4 kB or more that it wrote into to its result; the sum is what it needs.
    return orjson.dumps(value) + b"\n"


def _write(path: Path, lines: Iterable[bytes]) -> int:
    count = 0
    with path.open("wb") as stream:
        for line in lines:
            stream.write(line)
            count += 1
    return count
