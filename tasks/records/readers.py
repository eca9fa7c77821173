"""Rows of JSONL, CSV and Parquet files, strictly read: what can't be a row says why."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tasks.stage.errors import DataError

_LISTS = ("documents", "messages")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: `row` is what it says, or None and `fault` is why it says nothing.

    `number` counts from 1; `raw` is the line as JSON, or as it was found where it is at fault.
    """

    number: int
    raw: bytes
    row: dict[str, Any] | None
    fault: str | None


def read_lines(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Line]:
    """The lines of a JSONL, CSV or Parquet file; `columns` renames: theirs to ours.

    Raises:
        DataError: there is no such file, its ending is unknown, or it can't be read at all.
    """
    kinds = {".jsonl": _json_lines, ".csv": _csv_lines, ".parquet": _parquet_lines}
    if not path.is_file():
        raise DataError(
            f"no file {path}; expected one that ends in {', '.join(kinds)}",
            "mend the path; relative ones count from the working directory",
        )
    if path.suffix not in kinds:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'!r}; expected {', '.join(kinds)}",
            "convert the file, one row a record",
        )
    for line in kinds[path.suffix](path):
        yield _renamed(line, columns) if columns and line.row is not None else line


def canonical_json(row: Mapping[str, Any]) -> bytes:
    """A row as one line of JSON, whatever the order of its keys.

    Raises:
        ValueError: a number is not finite, or a text holds a lone surrogate.
    """
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return text.encode()


def parse_line(number: int, raw: bytes) -> Line:
    """One line of JSONL, strictly: an object, no NaN, no key twice, only valid Unicode."""
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
        if not isinstance(value, dict):
            return Line(
                number, raw, None, f"found a {type(value).__name__}; expected a JSON object"
            )
        canonical_json(value)
    except UnicodeError as error:
        return Line(number, raw, None, f"not valid Unicode: {error}")
    except (ValueError, RecursionError) as error:
        return Line(number, raw, None, f"not strict JSON: {error}")
    return Line(number, raw, value, None)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"key given twice: {', '.join(twice)}")
    return row


def _renamed(line: Line, columns: Mapping[str, str]) -> Line:
    row = {columns.get(name, name): value for name, value in (line.row or {}).items()}
    return Line(line.number, canonical_json(row), row, None)


def _json_lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            text = raw.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf" if number == 1 else b"")
            if text.strip():
                yield parse_line(number, text)


def _csv_lines(path: Path) -> Iterator[Line]:
    """Every cell is text; empty ones are absent; lists are JSON, or one document's id."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            for number, cells in enumerate(reader, start=2):
                yield _from_cells(number, cells)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} is not a UTF-8 CSV file: {error}, near line {reader.line_num}",
                "mend the quoting or the encoding, or give the rows as JSONL",
            ) from None


def _from_cells(number: int, cells: dict[str, Any]) -> Line:
    if None in cells:
        raw = json.dumps([str(value) for value in cells.values()]).encode()
        return Line(number, raw, None, "more cells than the header has columns")
    row = {name: value for name, value in cells.items() if value not in ("", None)}
    for name in _LISTS:
        if name in row:
            row[name] = _list_cell(row[name])
    return _from_row(number, row)


def _list_cell(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return [text]
    try:
        return json.loads(text)
    except ValueError:
        return text  # validation says what is wrong with it


def _parquet_lines(path: Path) -> Iterator[Line]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield _from_row(number, {key: value for key, value in row.items() if value is not None})
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file: {error}", "write it again"
        ) from None


def _from_row(number: int, row: dict[str, Any]) -> Line:
    try:
        return parse_line(number, canonical_json(row))
    except (ValueError, TypeError) as error:
        raw = json.dumps({key: repr(value) for key, value in row.items()}).encode()
        return Line(number, raw, None, f"can't be written as JSON: {error}")
