"""Text files as bounded lines of UTF-8: any other encoding is refused, none is ever guessed."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tasks.stage.errors import DataError

_BLOCK = 1 << 20
_HEAD = 200
_UTF_8 = b"\xef\xbb\xbf"
# UTF-32's mark for little endian begins with UTF-16's, so it is looked for first.
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
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
        """The line as text.

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


class _Utf16(io.RawIOBase):
    """A UTF-16 stream, from behind its byte order mark, as UTF-8."""

    def __init__(self, stream: BinaryIO, path: Path, encoding: str) -> None:
        self._stream = stream
        self._path = path
        self._decoder = codecs.getincrementaldecoder(encoding)("strict")
        self._pending = b""
        self._fed = stream.tell()

    def readable(self) -> bool:
        """That it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """How many bytes of UTF-8 were written into the buffer; 0 at the end."""
        while not self._pending:
            block = self._stream.read(_BLOCK)
            self._pending = self._decode(block)
            if not block:
                break
        count = min(len(buffer), len(self._pending))
        buffer[:count], self._pending = self._pending[:count], self._pending[count:]
        return count

    def _decode(self, block: bytes) -> bytes:
        held = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._path} begins as UTF-16 but byte {self._fed - held + error.start} is not "
                f"({error.reason}); nothing is decoded at a loss",
                _REMEDY,
            ) from None
        self._fed += len(block)
        return text.encode()


@contextmanager
def open_utf8(path: Path) -> Iterator[BinaryIO]:
    """The file's content as UTF-8 without a mark, whether it is UTF-8 or marked UTF-16.

    Raises:
        DataError: the file is UTF-32, or UTF-16 without a mark.
    """
    with path.open("rb") as stream:
        head = stream.read(4)
        if head in _UTF_32:
            raise _foreign(path, 0, "holds the mark of UTF-32")
        encoding = _UTF_16.get(head[:2])
        if encoding is None:
            if b"\0" in head:
                zero = head.index(b"\0")
                raise _foreign(path, zero, "is zero, as in UTF-16 or UTF-32 without a mark")
            stream.seek(len(_UTF_8) if head.startswith(_UTF_8) else 0)
            yield stream
            return
        stream.seek(2)
        yield io.BufferedReader(_Utf16(stream, path, encoding), _BLOCK)


def _foreign(path: Path, offset: int, what: str) -> DataError:
    return DataError(
        f"{path}: byte {offset} {what}; expected UTF-8, or UTF-16 with its byte order mark",
        _REMEDY,
    )


def undecodable(path: Path, error: UnicodeError) -> DataError:
    """The error that refuses a whole file whose bytes are not UTF-8."""
    return DataError(
        f"{path}: {error}; expected UTF-8, or UTF-16 with its byte order mark, since nothing is "
        "decoded at a loss",
        _REMEDY,
    )


def bounded_lines(stream: BinaryIO, longest: int | None) -> Iterator[RawLine]:
    """The lines of a UTF-8 stream; one of more than `longest` bytes is read past, never held."""
    offset, number = stream.tell() if stream.seekable() else 0, 0
    limit = -1 if longest is None else longest + 2  # the bytes of its end are not counted
    while found := stream.readline(limit):
        number += 1
        content = found.rstrip(b"\r\n")
        over = longest is not None and len(content) > longest
        size = len(found)
        if over and not found.endswith(b"\n"):
            size += _skip(stream)
        yield RawLine(number, offset, content[:_HEAD] if over else content, size, over)
        offset += size


def _skip(stream: BinaryIO) -> int:
    """How many bytes were left of a line; the next read begins behind it."""
    count = 0
    while block := stream.readline(_BLOCK):
        count += len(block)
        if block.endswith(b"\n"):
            break
    return count
