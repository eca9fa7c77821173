"""Rows of JSON, CSV and Parquet files, strictly read: what can't be a row says why."""

import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn
from uuid import UUID

from tasks.records.columns import NO_COLUMNS, Columns
from tasks.records.csv_files import overlong, read_csv
from tasks.records.json_texts import json_objects, refuse_another_layout
from tasks.records.text_files import (
    PLAIN,
    SAY_ENCODING,
    RawLine,
    TextFormat,
    bounded_lines,
    refuse_another_encoding,
)
from tasks.stage.errors import DataError

_DEEPEST = 64
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_LAYOUT_BYTES = 1 << 20
_BATCH = 256
_FOUND = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: `row` is what it says, or None and `fault` is why it says nothing.

    `number` counts from 1: the line of the file, in Parquet the row. `raw` is the line as JSON
    with sorted keys; at fault it is the line as it was found, or a note of the fault where that is
    no line of text or too long to keep: a JSON array that `parse_line` reads as the same fault.
    `mapped` are their names of the columns that the mapping renamed; `unread` names what of the row
    nobody reads.
    """

    number: int
    raw: bytes
    row: dict[str, Any] | None
    fault: str | None
    mapped: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_lines(
    path: Path,
    columns: Columns = NO_COLUMNS,
    *,
    form: TextFormat = PLAIN,
    longest_line_bytes: int | None = None,
) -> Iterator[Line]:
    """Yield the lines of a JSON, CSV or Parquet file; its ending says which it is, in any case.

    One line is held at a time, and none of more than `longest_line_bytes`.

    Raises:
        DataError: there is no such file, its ending is unknown, or it can't be read at all.
    """
    if not path.is_file():
        raise DataError(
            f"no file {path}; expected one that ends in {', '.join(ENDINGS)}",
            "mend the path; relative ones count from the working directory",
        )
    longest = longest_line_bytes
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" if form.json_lines:
            yield from _json_lines(bounded_lines(path, longest, form.encoding), columns, longest)
        case ".jsonl" | ".ndjson" | ".json":
            yield from _json_lines(json_objects(path, longest, form.encoding), columns, longest)
        case ".csv" | ".tsv":
            yield from _csv_lines(path, columns, longest, form)
        case ".parquet":
            yield from _parquet_lines(path, columns, longest)
        case _:
            raise DataError(
                f"{path} ends in {path.suffix or 'nothing'!r}; expected {', '.join(ENDINGS)}",
                "convert the file, one row a record",
            )


def read_kept_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of an intake's file, as ingestion wrote it: UTF-8, ended by line feeds."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            content = raw.rstrip(b"\r\n")
            if content.strip():
                yield parse_line(number, content)


def check_text_format(path: Path, form: TextFormat) -> None:
    """Refuse a JSON file that is written otherwise than params say, before a row is read.

    Raises:
        DataError: it begins in another encoding, as an array, or as an object of several lines.
    """
    ending = path.suffix.lower()
    if ending not in (".jsonl", ".ndjson", ".json"):
        return
    are_lines = form.json_lines and ending != ".json"
    # Of lines a single bad one is left out by itself; a text is of one encoding.
    refuse_another_encoding(path, form.encoding, tolerated=1 if are_lines else 0)
    if not are_lines:
        return
    lines = (line.content.strip() for line in bounded_lines(path, _LAYOUT_BYTES, form.encoding))
    first, second = islice(chain(filter(None, lines), (b"", b"")), 2)
    if not _is_note(first):
        is_object = parse_line(1, first).row is not None
        refuse_another_layout(path, first, second, is_object=is_object)


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


def strict_json(text: str) -> Any:
    """Return what a text says as strict JSON.

    Raises:
        ValueError: it is none, is nested too deep, or escapes half of a surrogate pair.
    """
    try:
        value = _DECODE(text)
        _ENCODE(value).encode()
    except RecursionError:
        raise ValueError(_too_deep()) from None
    if _is_deeper(text.encode(), value):
        raise ValueError(_too_deep())
    return value


def table_line(
    number: int,
    cells: Mapping[str, Any],
    columns: Columns,
    longest: int | None,
    labels: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Line:
    """Return the line that a row of a table stands for: empty cells are absent.

    `labels` are the names of a column's numbers, where it is a ClassLabel. A cell of `documents`
    may hold a JSON list; a text that is none is the one document's id.
    """
    try:
        named = columns.named_labels(cells, labels) if labels else cells
        present = {name: value for name, value in named.items() if value not in ("", None)}
        row, mapped = columns.rename(present)
        if isinstance(row.get("documents"), str):
            row["documents"] = _documents_cell(row["documents"])
        raw = canonical_json(row)
        if longest is not None and len(raw) > longest:
            return faulty_line(number, overlong(len(raw), longest), raw[:_FOUND])
        value = json.loads(raw)
        if _is_deeper(raw, value):
            return faulty_line(number, _too_deep(), raw)
    except (ValueError, TypeError, RecursionError) as error:
        return faulty_line(number, f"can't be kept as JSON: {error}", _repr.repr(dict(cells)))
    return Line(number, raw, value, None, mapped)


def faulty_line(number: int, fault: str, found: str | bytes) -> Line:
    """Return a line at fault whose `raw` is a note of the fault and of the beginning of what was
    found.
    """
    if isinstance(found, str):
        found = found.encode(errors="backslashreplace")
    shown = found[:_FOUND].decode(errors="backslashreplace")
    note = [{"fault": fault, "found": shown}]
    return Line(number, json.dumps(note, ensure_ascii=False).encode(), None, fault)


def _is_note(raw: bytes) -> bool:
    """Return whether a line is a fault's note, such as an intake holds."""
    try:
        return _noted(_DECODE(raw.decode())) is not None
    except (ValueError, RecursionError):
        return False


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


def _documents_cell(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return [text]
    try:
        return _DECODE(text)
    except ValueError as error:
        raise ValueError(f"column documents begins like a JSON list: {error}") from None


def _json_lines(lines: Iterable[RawLine], columns: Columns, longest: int | None) -> Iterator[Line]:
    for raw in lines:
        if raw.over:
            yield faulty_line(raw.number, overlong(raw.size, longest), raw.content)
            continue
        if not raw.content.strip():
            continue
        line = parse_line(raw.number, raw.content)
        if line.row is None:
            yield _kept(raw, line)
        else:
            yield _renamed_line(line, line.row, columns) if columns.change else line


def _kept(raw: RawLine, line: Line) -> Line:
    """Return a line at fault as it is, or a note of it where its bytes are no line of text."""
    try:
        _ = raw.text
    except UnicodeError as error:
        fault = f"not valid Unicode: {error}; {SAY_ENCODING}"
        return faulty_line(line.number, fault, line.raw)
    if b"\n" in raw.content:
        return faulty_line(line.number, str(line.fault), line.raw)
    return line


def _renamed_line(line: Line, row: Mapping[str, Any], columns: Columns) -> Line:
    try:
        renamed, mapped = columns.rename(row)
    except ValueError as error:
        return faulty_line(line.number, str(error), line.raw)
    return Line(line.number, canonical_json(renamed), renamed, None, mapped)


def _csv_lines(
    path: Path, columns: Columns, longest: int | None, form: TextFormat
) -> Iterator[Line]:
    for row in read_csv(path, longest, form):
        if row.cells is None:
            yield faulty_line(row.number, str(row.fault), row.found)
        else:
            yield table_line(row.number, row.cells, columns, longest)


def _parquet_lines(path: Path, columns: Columns, longest: int | None) -> Iterator[Line]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            labels = _class_labels(file.schema_arrow.metadata or {})
            batches = file.iter_batches(batch_size=_BATCH)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield table_line(number, row, columns, longest, labels)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file, perhaps cut short: {error}",
            "write it again, or copy it again from where it is whole",
        ) from None


def _class_labels(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of each ClassLabel column, as `datasets` writes them into Parquet."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # no metadata of `datasets`
