"""Text files as bounded lines of UTF-8, whatever encoding and line ends they have.

UTF-8, and UTF-16 with its mark, are read as they are; another encoding where params name it. None
is guessed.
"""

import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.stage.errors import DataError

_BLOCK = 1 << 20

_HEAD = 200

_PLACE = "under `files` in params/ingestion.yaml"

_REMEDY = (
    "write the encoding that it has, as Python names it, e.g. `encoding: cp949` where it is "
    f"Windows' Korean (euc-kr, shift_jis, gb18030, cp1252, utf-16-le ...), {_PLACE}; or convert "
    "the file to UTF-8"
)

SAY_ENCODING = f"where the whole file is in another encoding, write it as `encoding` {_PLACE}"

# UTF-32's mark for little endian begins with UTF-16's, so it stands first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

_BY_MARK = ("utf-16", "utf-32")  # these leave it to the mark which byte comes first

_TELLING_BYTES = 8  # so many that are not ASCII are UTF-8 by chance in no other encoding

# Reads at most so many bytes of a line, -1 for all.
ReadLine = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How text files are written, as params say it; nothing of it is guessed.

    `encoding` is None for UTF-8, and for UTF-16 with its mark. `delimiter` is None for a comma, in
    files that end in .tsv for a tab. `json_lines` is false where a JSON file is no object a line.
    """

    encoding: str | None
    delimiter: str | None
    json_lines: bool


PLAIN = TextFormat(None, None, json_lines=True)


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


@dataclass(frozen=True, slots=True)
class OpenText:
    """A text file that is read as UTF-8: `begin` is its first byte, `end` what ends a line.

    `read_line` reads as many bytes as it is told at the most; characters, where it decodes.
    """

    read_line: ReadLine
    begin: int
    end: bytes


@contextmanager
def open_text(path: Path, encoding: str | None) -> Iterator[OpenText]:
    """Open a text file behind its byte order marks.

    Raises:
        DataError: its bytes are not of the encoding, or its mark names another one.
    """
    with path.open("rb") as stream:
        head = stream.read(_BLOCK)
        codec = _codec(path, head, encoding)
        begin = _marked_bytes(head, codec)
        end = _line_end(head[begin:], codec)
        stream.seek(begin)
        if codec == "utf-8" and end == "\n":
            yield OpenText(stream.readline, begin, b"\n")
            return
        # A byte that is not UTF-8 goes through as it is: the line that holds it is named.
        errors = "surrogateescape" if codec == "utf-8" else "strict"
        text = io.TextIOWrapper(stream, codec, errors, newline=end)
        start = begin if codec == "utf-8" else 0
        try:
            yield OpenText(
                lambda most: text.readline(most).encode("utf-8", errors), start, end.encode()
            )
        except UnicodeDecodeError as error:
            place = stream.tell() - len(error.object) + error.start
            raise _undecoded(path, codec, encoding, place, error.reason) from None


def undecodable(path: Path, error: UnicodeError) -> DataError:
    """Return the error that refuses a whole file whose bytes are not UTF-8."""
    return DataError(
        f"{path}: {error}; expected UTF-8, or UTF-16 with its byte order mark, since nothing is "
        "decoded at a loss",
        _REMEDY,
    )


def bounded_lines(
    path: Path, longest: int | None, encoding: str | None = None
) -> Iterator[RawLine]:
    """Yield the lines of a text file; one of more than `longest` bytes is read past, never held.

    A line ends as the first one does: with a line feed, or with a carriage return alone.

    Raises:
        DataError: the bytes of the file are not of its encoding.
    """
    limit = -1 if longest is None else longest + 2  # the bytes of its end are not counted
    with open_text(path, encoding) as opened:
        number, offset = 0, opened.begin
        while found := opened.read_line(limit):
            number += 1
            content = found.rstrip(b"\r\n")
            over = longest is not None and len(content) > longest
            size = len(found)
            if over and not found.endswith(opened.end):
                size += _skip(opened)
            yield RawLine(number, offset, content[:_HEAD] if over else content, size, over)
            offset += size


def refuse_another_encoding(path: Path, encoding: str | None, *, tolerated: int) -> None:
    """Refuse a file whose beginning is in another encoding; up to `tolerated` bad lines are none.

    Raises:
        DataError: more of its first lines are not ASCII, and none of these is UTF-8.
    """
    wrong: list[UnicodeError] = []
    for line in bounded_lines(path, _BLOCK, encoding):
        if line.offset > _BLOCK:
            break
        if line.over or line.content.isascii():
            continue
        try:
            _ = line.text
        except UnicodeError as error:
            wrong.append(error)
        else:
            return
    if len(wrong) > tolerated:
        raise undecodable(path, wrong[0])


def _skip(opened: OpenText) -> int:
    """Return how many bytes were left of a line; the next read begins behind it."""
    count = 0
    while block := opened.read_line(_BLOCK):
        count += len(block)
        if block.endswith(opened.end):
            break
    return count


def _codec(path: Path, head: bytes, encoding: str | None) -> str:
    """Return the encoding of a file that begins so, under the name that Python's codecs have.

    Raises:
        DataError: params name none and it is no UTF-8, or they name another than the mark does.
    """
    marked = next((codec for mark, codec in _MARKS.items() if head.startswith(mark)), None)
    if encoding is None:
        return _unnamed(path, head, marked)
    named = codecs.lookup(encoding).name.removesuffix("-sig")
    if marked is not None:
        if named not in (marked, marked[:6]):
            raise _other_than_named(path, encoding, f"begins with the byte order mark of {marked}")
        return marked
    if named in _BY_MARK:
        raise DataError(
            f"{path} has no byte order mark, so {named} does not say which of two bytes comes "
            "first",
            f"write `encoding: {named}-le` or `encoding: {named}-be` {_PLACE}",
        )
    if not named.startswith("utf") and _is_telling_utf_8(head):
        raise _other_than_named(path, encoding, "is UTF-8 by its bytes")
    return named


def _unnamed(path: Path, head: bytes, marked: str | None) -> str:
    """Return the encoding of a file whose params name none."""
    if marked is not None and marked.startswith("utf-32"):
        raise _foreign(path, 0, "holds the mark of UTF-32")
    if marked is None and b"\0" in head[:4]:
        zero = head.index(b"\0")
        raise _foreign(path, zero, "is zero, as in UTF-16 or UTF-32 without a mark")
    return marked or "utf-8"


def _is_telling_utf_8(head: bytes) -> bool:
    """Return whether bytes are UTF-8, and hold so much that no other encoding has by chance."""
    if sum(byte > 0x7F for byte in head[:100_000]) < _TELLING_BYTES:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _foreign(path: Path, offset: int, what: str) -> DataError:
    return DataError(
        f"{path}: byte {offset} {what}; expected UTF-8, or UTF-16 with its byte order mark",
        _REMEDY,
    )


def _other_than_named(path: Path, encoding: str, found: str) -> DataError:
    return DataError(
        f"{path} {found}; params name the encoding {encoding}, under which its letters would be "
        "others",
        f"write `encoding: null` {_PLACE}: UTF-8, and UTF-16 with its mark, need no name; where "
        f"other files are in {encoding}, convert those to UTF-8: `iconv -f {encoding} -t UTF-8`",
    )


def _undecoded(path: Path, codec: str, encoding: str | None, place: int, reason: str) -> DataError:
    said = f"begins as {codec.upper()[:6]}" if encoding is None else f"is {encoding} by params"
    return DataError(
        f"{path} {said} but byte {place} is not ({reason}); nothing is decoded at a loss", _REMEDY
    )


def _marked_bytes(head: bytes, codec: str) -> int:
    """Return how many bytes of byte order marks a file begins with: some are saved with two."""
    try:
        mark = "\ufeff".encode(codec)
    except UnicodeEncodeError:
        return 0
    count = 0
    while head.startswith(mark, count):
        count += len(mark)
    return count


def _line_end(head: bytes, codec: str) -> str:
    """Return what ends a line: a carriage return alone in files of an old Mac.

    It ends the first line then, and is more frequent than the line feeds, which stand in cells.
    """
    with io.TextIOWrapper(io.BytesIO(head), codec, "replace", newline="") as text:
        rest = text.read() if text.readline().endswith("\r") else ""
    if not rest:
        return "\n"
    lone = 1 + rest.count("\r") - rest.count("\r\n")
    return "\r" if lone > rest.count("\n") else "\n"
