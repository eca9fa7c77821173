"""Rows of JSONL, CSV and Parquet files, strictly read: what can't be a row says why."""

import json
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from tasks.records.text_files import RawLine, bounded_lines, overlong, read_csv
from tasks.stage.errors import DataError

_LISTS = ("documents", "messages", "conversations")
_DEEPEST = 64
_BATCH = 256
_FOUND = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: `row` is what it says, or None and `fault` is why it says nothing.

    `number` counts from 1: the line of the file, in Parquet the row. `raw` is the line as JSON
    with sorted keys; at fault it is the line as it was found, or a note of the fault where that is
    no line of text or too long to keep: a JSON array that `parse_line` reads as the same fault.
    """

    number: int
    raw: bytes
    row: dict[str, Any] | None
    fault: str | None


def read_lines(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    longest_line_bytes: int | None = None,
) -> Iterator[Line]:
    """Yield the lines of a JSONL, CSV or Parquet file; `columns` renames: theirs to ours.

    One line is held at a time, and none of more than `longest_line_bytes`.

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
    yield from kinds[path.suffix](path, columns or {}, longest_line_bytes)


def canonical_json(row: Mapping[str, Any]) -> bytes:
    """Return a row as one line of JSON, whatever the order of its keys; dates and such become text.

    Raises:
        ValueError: a number is not finite, or a text holds a lone surrogate.
        TypeError: a value has no JSON form.
        RecursionError: values are nested too deep.
    """
    return _ENCODE(row).encode()


def parse_line(number: int, raw: bytes) -> Line:
    """Return one line of JSONL, strictly: an object, no NaN, no key twice, only valid Unicode."""
    try:
        value = _DECODE(raw.decode())
        if not isinstance(value, dict):
            return Line(number, raw, None, _noted(value) or _not_an_object(value))
        if _is_deeper(raw, value):
            return Line(number, raw, None, _too_deep())
        return Line(number, canonical_json(value), value, None)
    except UnicodeDecodeError as error:
        fault = f"byte {error.start} of the line is 0x{raw[error.start]:02x}, which is not UTF-8"
        return Line(number, raw, None, f"not valid Unicode: {fault} there")
    except UnicodeEncodeError as error:
        lone = ascii(error.object[error.start])[1:-1]
        return Line(number, raw, None, f"not valid Unicode: {lone} is half of a surrogate pair")
    except RecursionError:
        return Line(number, raw, None, _too_deep())
    except ValueError as error:
        return Line(number, raw, None, f"not strict JSON: {error}")


def table_line(
    number: int, cells: Mapping[str, Any], columns: Mapping[str, str], longest: int | None
) -> Line:
    """Return the line that a row of a table stands for: empty cells are absent, lists may be JSON
    text.
    """
    try:
        present = {name: value for name, value in cells.items() if value not in ("", None)}
        row = _renamed(present, columns)
        for name in _LISTS:
            if isinstance(row.get(name), str):
                row[name] = _list_cell(name, row[name])
        raw = canonical_json(row)
        if longest is not None and len(raw) > longest:
            return faulty_line(number, overlong(len(raw), longest), raw[:_FOUND])
        value = json.loads(raw)
        if _is_deeper(raw, value):
            return faulty_line(number, _too_deep(), raw)
    except (ValueError, TypeError, RecursionError) as error:
        return faulty_line(number, f"can't be kept as JSON: {error}", _repr.repr(dict(cells)))
    return Line(number, raw, value, None)


def faulty_line(number: int, fault: str, found: str | bytes) -> Line:
    """Return a line at fault whose `raw` is a note of the fault and of the beginning of what was
    found.
    """
    if isinstance(found, str):
        found = found.encode(errors="backslashreplace")
    shown = found[:_FOUND].decode(errors="backslashreplace")
    note = [{"fault": fault, "found": shown}]
    return Line(number, json.dumps(note, ensure_ascii=False).encode(), None, fault)


def _noted(value: object) -> str | None:
    """Return the fault that a note tells of, None where the value is no note."""
    match value:
        case [{"fault": str(fault), "found": str(), **more}] if not more:
            return fault
    return None


def _not_an_object(value: object) -> str:
    return f"found a {type(value).__name__}; expected a JSON object"


def _too_deep() -> str:
    return f"not strict JSON: nested more than {_DEEPEST} deep"


def _is_deeper(raw: bytes, value: object) -> bool:
    """Return whether values are nested deeper than allowed: deep ones would break those who walk
    them.
    """
    if raw.count(b"[") + raw.count(b"{") <= _DEEPEST:
        return False
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not level:
            return False
    return True


def _plain(value: object) -> str:
    """Return what JSON says of a date, a number with a fixed point or a UUID."""
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal() | UUID():
            return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        shown = ", ".join(twice[:5]).encode(errors="backslashreplace").decode()
        raise ValueError(f"key given twice: {shown}")
    return row


_ENCODE = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, allow_nan=False, default=_plain
).encode
_DECODE = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique).decode
_repr = reprlib.Repr()
_repr.maxdict, _repr.maxstring, _repr.maxother = 20, 200, 200


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the row under our names.

    Raises:
        ValueError: two of its columns get the same name.
    """
    renamed: dict[str, Any] = {}
    for name, value in row.items():
        ours = columns.get(name, name)
        if ours in renamed:
            both = sorted(theirs for theirs in row if columns.get(theirs, theirs) == ours)
            raise ValueError(
                f"columns {' and '.join(both)} are both read as {ours}: mend `columns` in params"
            )
        renamed[ours] = value
    return renamed


def _list_cell(name: str, text: str) -> Any:
    """Return the list that a cell holds as JSON; a text that is none is the one document's id."""
    if text.lstrip().startswith("["):
        try:
            return _DECODE(text)
        except ValueError as error:
            raise ValueError(f"column {name} begins like a JSON list: {error}") from None
    return [text] if name == "documents" else text


def _json_lines(path: Path, columns: Mapping[str, str], longest: int | None) -> Iterator[Line]:
    for raw in bounded_lines(path, longest):
        if raw.over:
            yield faulty_line(raw.number, overlong(raw.size, longest), raw.content)
            continue
        if not raw.content.strip():
            continue
        line = parse_line(raw.number, raw.content)
        if line.row is None:
            yield _kept(raw, line)
        else:
            yield _renamed_line(line, line.row, columns) if columns else line


def _kept(raw: RawLine, line: Line) -> Line:
    """Return a line at fault as it is, or a note of it where its bytes are no text."""
    try:
        _ = raw.text
    except UnicodeError as error:
        return faulty_line(line.number, f"not valid Unicode: {error}", line.raw)
    return line


def _renamed_line(line: Line, row: Mapping[str, Any], columns: Mapping[str, str]) -> Line:
    try:
        renamed = _renamed(row, columns)
    except ValueError as error:
        return faulty_line(line.number, str(error), line.raw)
    return Line(line.number, canonical_json(renamed), renamed, None)


def _csv_lines(path: Path, columns: Mapping[str, str], longest: int | None) -> Iterator[Line]:
    for row in read_csv(path, longest):
        if row.cells is None:
            yield faulty_line(row.number, str(row.fault), row.found)
        else:
            yield table_line(row.number, row.cells, columns, longest)


def _parquet_lines(path: Path, columns: Mapping[str, str], longest: int | None) -> Iterator[Line]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=_BATCH)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield table_line(number, row, columns, longest)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file, perhaps cut short: {error}",
            "write it again, or copy it again from where it is whole",
        ) from None
