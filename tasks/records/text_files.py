"""Text files as bounded lines of UTF-8 and as rows of CSV, strictly read.

Any other encoding is refused, none is guessed. What is no row says why, and the next one is
still read."""

import codecs
import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.stage.errors import DataError

_BLOCK = 1 << 20

_HEAD = 200

_UTF_8 = b"\xef\xbb\xbf"

# UTF-32's mark for little endian begins with UTF-16's, so it is looked for first.
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)

_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

# Reads at most so many bytes of a line, -1 for all.
ReadLine = Callable[[int], bytes]

_REMEDY = (
    "write it as UTF-8, e.g. `iconv -f CP949 -t UTF-8 OLD > NEW` where it is Windows' Korean; name "
    "the encoding that it has"
)


@dataclass(frozen=True, slots=True)
class RawLine:
    """One line without its end: `content`, or only its first bytes where it is over the bound.

    `number` counts from 1; `offset` is where it begins, in bytes of the UTF-8 form; `size` is its
    whole length in bytes, its end included.
    """

    number: int
    offset: int
    content: bytes
    size: int
    over: bool

    @property
    def text(self) -> str:
        """Return the line as text.

        Raises:
            UnicodeError: with the offset of the first byte that is not UTF-8.
        """
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            raise UnicodeError(
                f"byte {self.offset + error.start} is 0x{self.content[error.start]:02x}, "
                "which is not UTF-8 there"
            ) from None


@contextmanager
def _open(path: Path) -> Iterator[tuple[ReadLine, int]]:
    """Give what reads the file's next line as UTF-8, and the byte of that at which it begins.

    It reads as many bytes as it is told at the most, in UTF-16 as many characters.

    Raises:
        DataError: the file is UTF-32, UTF-16 without a mark, or UTF-16 that breaks off.
    """
    with path.open("rb") as stream:
        head = stream.read(4)
        encoding = _utf_16(path, head)
        if encoding is None:
            begin = len(_UTF_8) if head.startswith(_UTF_8) else 0
            stream.seek(begin)
            yield stream.readline, begin
            return
        stream.seek(2)
        text = io.TextIOWrapper(stream, encoding, newline="\n")
        try:
            yield lambda most: text.readline(most).encode(), 0
        except UnicodeDecodeError as error:
            place = stream.tell() - len(error.object) + error.start
            raise DataError(
                f"{path} begins as UTF-16 but byte {place} is not ({error.reason}); nothing is "
                "decoded at a loss",
                _REMEDY,
            ) from None


def _utf_16(path: Path, head: bytes) -> str | None:
    """Return which UTF-16 a file is by its first four bytes, None where it may be UTF-8."""
    if head in _UTF_32:
        raise _foreign(path, 0, "holds the mark of UTF-32")
    encoding = _UTF_16.get(head[:2])
    if encoding is None and b"\0" in head:
        zero = head.index(b"\0")
        raise _foreign(path, zero, "is zero, as in UTF-16 or UTF-32 without a mark")
    return encoding


def _foreign(path: Path, offset: int, what: str) -> DataError:
    return DataError(
        f"{path}: byte {offset} {what}; expected UTF-8, or UTF-16 with its byte order mark",
        _REMEDY,
    )


def _undecodable(path: Path, error: UnicodeError) -> DataError:
    """Return the error that refuses a whole file whose bytes are not UTF-8."""
    return DataError(
        f"{path}: {error}; expected UTF-8, or UTF-16 with its byte order mark, since nothing is "
        "decoded at a loss",
        _REMEDY,
    )


def bounded_lines(path: Path, longest: int | None) -> Iterator[RawLine]:
    """Yield the lines of a text file; one of more than `longest` bytes is read past, never held.

    Raises:
        DataError: the file is no UTF-8 and no marked UTF-16.
    """
    limit = -1 if longest is None else longest + 2  # the bytes of its end are not counted
    with _open(path) as (readline, offset):
        number = 0
        while found := readline(limit):
            number += 1
            content = found.rstrip(b"\r\n")
            over = longest is not None and len(content) > longest
            size = len(found)
            if over and not found.endswith(b"\n"):
                size += _skip(readline)
            yield RawLine(number, offset, content[:_HEAD] if over else content, size, over)
            offset += size


def _skip(readline: ReadLine) -> int:
    """Return how many bytes were left of a line; the next read begins behind it."""
    count = 0
    while block := readline(_BLOCK):
        count += len(block)
        if block.endswith(b"\n"):
            break
    return count


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

    def __init__(self, path: Path, longest: int | None) -> None:
        self._lines = bounded_lines(path, longest)
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


def read_csv(path: Path, longest: int | None) -> Iterator[CsvRow]:
    """Yield the rows below the header; blank lines are no rows.

    A row that is at fault within one line is told and left; where a quoted cell that is never
    closed may have swallowed other rows the whole file is refused.

    Raises:
        DataError: the bytes are no text, the header is none, or a quoted cell is never closed.
    """
    # The module's own bound, 131,072 characters a cell, holds for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), longest or _LARGEST_CELL))
    texts = _Texts(path, longest)
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
        raise _undecodable(path, error) from None


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
    """Return why a line of so many bytes is not read."""
    return (
        f"a line of {size:,} bytes; at most {longest:,} are read (longest_line_bytes), so that one "
        "line can't fill the memory"
    )
