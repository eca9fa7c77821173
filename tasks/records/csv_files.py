"""Rows of CSV files, strictly read: what is no row says why, and the next one is still read.

The delimiter is a comma unless params name another; none is guessed."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.records.text_files import RawLine, TextFormat, bounded_lines, undecodable
from tasks.stage.errors import DataError

_MARKS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

# Excel's own first line, which names the delimiter.
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)

_SHOWN = 500

_LARGEST_CELL = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row: its cells by column, or None and `fault` is why; `found` shows what stands there.

    `number` is the line of the file on which the row begins.
    """

    number: int
    cells: dict[str, str] | None
    found: str
    fault: str | None


class _OverlongError(Exception):
    """A line is over the bound: it was read past."""

    def __init__(self, line: RawLine) -> None:
        super().__init__()
        self.line = line


class _Texts:
    """The lines of a CSV file as texts; `number` is that of the last one. Errors do not end it."""

    def __init__(self, path: Path, longest: int | None, encoding: str | None) -> None:
        self._lines = bounded_lines(path, longest, encoding)
        self.longest = longest
        self.number = 0
        self.last = ""

    def __iter__(self) -> "_Texts":
        """Return the lines themselves."""
        return self

    def __next__(self) -> str:
        """Return the next line, with an end of its own."""
        line = next(self._lines)
        self.number = line.number
        if line.over:
            raise _OverlongError(line)
        self.last = line.text
        if "\0" in self.last:
            place = line.offset + line.content.index(b"\0")
            raise UnicodeError(f"byte {place} is zero, which no text holds")
        return self.last + "\n"


def read_csv(path: Path, longest: int | None, form: TextFormat) -> Iterator[CsvRow]:
    """Yield the rows below the header; blank lines are no rows.

    A row that is at fault within one line is told and left; where a quoted cell that is never
    closed may have swallowed other rows the whole file is refused.

    Raises:
        DataError: the bytes are no text, the header is none, or a quoted cell is never closed.
    """
    # The module's own bound, 131,072 characters a cell, holds for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), longest or _LARGEST_CELL))
    delimiter = form.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    texts = _Texts(path, longest, form.encoding)
    reader = csv.reader(texts, strict=True, delimiter=delimiter)
    try:
        header = _header(path, texts, reader, delimiter)
        while True:
            before = texts.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, _OverlongError) as error:
                yield _fault(path, before, texts, error)
                continue
            if cells:
                yield _row(before, header, cells, delimiter)
    except UnicodeError as error:
        raise undecodable(path, error) from None


def _header(path: Path, texts: _Texts, reader: Iterator[list[str]], delimiter: str) -> list[str]:
    header: list[str] = []
    try:
        with suppress(StopIteration):
            while not header:
                header = next(reader)
                named = _SEPARATOR.fullmatch(texts.last) if texts.number == 1 else None
                if named:
                    _check_separator(path, named.group(1), delimiter)
                    header = []
    except (csv.Error, _OverlongError) as error:
        shown = (
            "it is over the longest line allowed" if isinstance(error, _OverlongError) else error
        )
        raise DataError(
            f"the header of {path} can't be read: {shown}; expected the columns' names, separated "
            f"by {_named(delimiter)}",
            "write it as CSV with double quotes, or give the rows as JSONL; where something else "
            f"parts the columns, {_setting(';')} (or what it is)",
        ) from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"the header of {path} names a column twice: {', '.join(map(repr, twice))}; one of "
            "them would be lost",
            "rename one of them in the file",
        )
    _check_delimiter(path, header, delimiter)
    return header


def _check_separator(path: Path, named: str, delimiter: str) -> None:
    if named != delimiter:
        raise DataError(
            f"the first line of {path} says that its columns are separated by {_named(named)} "
            f"(sep=); by params they are by {_named(delimiter)}",
            _setting(named),
        )


def _check_delimiter(path: Path, header: list[str], delimiter: str) -> None:
    """Refuse a header that another delimiter parts better.

    Raises:
        DataError: it is one column with a delimiter in it, or holds as many of another one.
    """
    if not header:
        return
    parted = len(header) - 1
    counts = {mark: sum(name.count(mark) for name in header) for mark in _MARKS}
    # Names of columns may hold commas, between quotes.
    others = [mark for mark in counts if mark != delimiter and (mark != "," or not parted)]
    found = max(others, key=counts.__getitem__)
    if counts[found] >= max(parted, 1):
        shown = delimiter.join(header)[:_SHOWN]
        columns = "is one column" if not parted else f"is {len(header)} columns"
        raise DataError(
            f"the header of {path} {columns}, {shown!r}; expected names separated by "
            f"{_named(delimiter)}, and it holds {_named(found)}",
            _setting(found),
        )


def _named(delimiter: str) -> str:
    return _MARKS.get(delimiter, repr(delimiter))


def _setting(delimiter: str) -> str:
    """Return what to write so that a file with this delimiter is read."""
    written = json.dumps(delimiter, ensure_ascii=False)
    return f"write `delimiter: {written}` under `files` in params/ingestion.yaml"


def _row(number: int, header: list[str], cells: list[str], delimiter: str) -> CsvRow:
    if len(cells) == len(header):
        return CsvRow(number, dict(zip(header, cells, strict=True)), "", None)
    side = "more" if len(cells) > len(header) else "fewer"
    fault = (
        f"{side} cells than the header has columns: found {len(cells)}, expected {len(header)} "
        f"({', '.join(header)[:_SHOWN]}); quote cells that hold {_named(delimiter)}"
    )
    return CsvRow(number, None, delimiter.join(cells)[:_SHOWN], fault)


def _fault(path: Path, begun: int, texts: _Texts, error: csv.Error | _OverlongError) -> CsvRow:
    if texts.number > begun or "unexpected end of data" in str(error):
        why = "a line over the longest allowed" if isinstance(error, _OverlongError) else error
        raise DataError(
            f"{path}: the row that begins on line {begun} opens a quoted cell and can't be closed "
            f"up to line {texts.number} ({why}); the rows between would be lost",
            "close the quote (a quote within a cell is written twice), or give the rows as JSONL",
        ) from None
    if isinstance(error, _OverlongError):
        line = error.line
        shown = line.content.decode(errors="backslashreplace")
        return CsvRow(begun, None, shown, overlong(line.size, texts.longest))
    return CsvRow(begun, None, texts.last[:_SHOWN], f"not CSV: {error}")


def overlong(size: int, longest: int | None) -> str:
    """Return why a line of so many bytes is not read."""
    return (
        f"a line of {size:,} bytes; at most {longest:,} are read (longest_line_bytes), so that one "
        "line can't fill the memory"
    )
