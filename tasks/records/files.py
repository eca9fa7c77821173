"""Records and documents in files of their own: one JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.records.record import Document, Record


def read_records(path: Path) -> list[Record]:
    """The records of a file that `write_records` wrote, in its order."""
    return [Record.from_row(row) for row in read_rows(path)]


def write_records(path: Path, records: Iterable[Record]) -> int:
    """How many records were written."""
    return write_rows(path, (record.as_row() for record in records))


def read_documents(path: Path) -> list[Document]:
    """The documents of a file that `write_documents` wrote, in its order."""
    return [Document.from_row(row) for row in read_rows(path)]


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """How many documents were written."""
    return write_rows(path, (document.as_row() for document in documents))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """How many objects were written, one a line, as UTF-8."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
