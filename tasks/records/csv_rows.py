"""The rows of a CSV file, strictly read: what is no row says why, and the next is still read."""

import csv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.records.streams import RawLine, bounded_lines, open_utf8, undecodable
from tasks.stage.errors import DataError

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

    def __init__(self, stream: BinaryIO, longest: int | None) -> None:
        self._lines = bounded_lines(stream, longest)
        self.longest = longest
        self.number = 0
        self.last = ""

    def __iter__(self) -> "_Texts":
        """The lines themselves."""
        return self

    def __next__(self) -> str:
        """The next line, with an end of its own."""
        line = next(self._lines)
        self.number = line.number
        if line.over:
            raise _OverlongError(line)
        self.last = line.text
        if "\0" in self.last:
            place = line.offset + line.content.index(b"\0")
            raise UnicodeError(f"byte {place} is zero, which no text holds")
        return self.last + "\n"


def read_csv(path: Path, longest: int | None) -> Iterator[CsvRow]:
    """The rows below the header; blank lines are no rows.

    A row that is at fault within one line is told and left; where a quoted cell that is never
    closed may have swallowed other rows the whole file is refused.

    Raises:
        DataError: the bytes are no text, the header is none, or a quoted cell is never closed.
    """
    with open_utf8(path) as stream:
        # The module's own bound, 131,072 characters a cell, holds for the whole process.
        csv.field_size_limit(max(csv.field_size_limit(), longest or _LARGEST_CELL))
        texts = _Texts(stream, longest)
        reader = csv.reader(texts, strict=True)
        try:
            header = _header(path, reader)
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
                    yield _row(before, header, cells)
        except UnicodeError as error:
            raise undecodable(path, error) from None


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    header: list[str] = []
    try:
        with suppress(StopIteration):
            while not header:
                header = next(reader)
    except (csv.Error, _OverlongError) as error:
        shown = (
            "it is over the longest line allowed" if isinstance(error, _OverlongError) else error
        )
        raise DataError(
            f"the header of {path} can't be read: {shown}; expected the columns' names, separated "
            "by commas",
            "write it as CSV with commas and double quotes, or give the rows as JSONL",
        ) from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"the header of {path} names a column twice: {', '.join(map(repr, twice))}; one of "
            "them would be lost",
            "rename one of them in the file",
        )
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise DataError(
            f"the header of {path} is one column, {header[0][:_SHOWN]!r}; expected names separated "
            "by commas",
            "write it with commas (a spreadsheet asks for the separator when it exports)",
        )
    return header


def _row(number: int, header: list[str], cells: list[str]) -> CsvRow:
    if len(cells) == len(header):
        return CsvRow(number, dict(zip(header, cells, strict=True)), "", None)
    side = "more" if len(cells) > len(header) else "fewer"
    fault = (
        f"{side} cells than the header has columns: found {len(cells)}, expected {len(header)} "
        f"({', '.join(header)[:_SHOWN]}); quote cells that hold commas"
    )
    return CsvRow(number, None, ",".join(cells)[:_SHOWN], fault)


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
    """Why a line of so many bytes is not read."""
    return (
        f"a line of {size:,} bytes; at most {longest:,} are read (longest_line_bytes), so that one "
        "line can't fill the memory"
    )
