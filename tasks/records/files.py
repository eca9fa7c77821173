"""Records and documents in files of their own: one JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from tasks.records.record import Document, Record


def stream_records(path: Path) -> Iterator[Record]:
    """The records of a file that `write_records` wrote, one at a time, in its order."""
    return (Record.from_row(row) for row in read_rows(path))


def read_records(path: Path) -> list[Record]:
    """The records of a file that `write_records` wrote, in its order."""
    return list(stream_records(path))


def write_records(path: Path, records: Iterable[Record]) -> int:
    """How many records were written."""
    return _write(path, map(record_line, records))


def record_line(record: Record) -> bytes:
    """A record as a line of its file, newline included."""
    return _line(record)


def stream_documents(path: Path) -> Iterator[Document]:
    """The documents of a file that `write_documents` wrote, one at a time, in its order."""
    return (Document.from_row(row) for row in read_rows(path))


def read_documents(path: Path) -> list[Document]:
    """The documents of a file that `write_documents` wrote, in its order."""
    return list(stream_documents(path))


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """How many documents were written."""
    return _write(path, map(document_line, documents))


def document_line(document: Document) -> bytes:
    """A document as a line of its file, newline included."""
    return _line(document)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line."""
    with path.open("rb") as stream:
        for line in stream:
            yield orjson.loads(line)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """How many objects were written, one a line, as UTF-8."""
    # Not orjson: it would write a number that is not finite as null, and say nothing.
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)
    return _write(path, lines)


def _line(value: Record | Document) -> bytes:
    # orjson leaves the 4 kB or more that it wrote into to its result; the sum is what it needs.
    return orjson.dumps(value) + b"\n"


def _write(path: Path, lines: Iterable[bytes]) -> int:
    count = 0
    with path.open("wb") as stream:
        for line in lines:
            stream.write(line)
            count += 1
    return count
