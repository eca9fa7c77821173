"""JSON files that hold no object a line: an array of objects, or objects laid out over lines.

The objects are cut out of the text one by one, so that a file of any size is never held.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tasks.records.text_files import SAY_ENCODING, RawLine, open_text
from tasks.stage.errors import DataError

_BLOCK = 1 << 20

_HEAD = 200

_SETTING = "`json_lines: false` under `files` in params/ingestion.yaml"

_SIGN = re.compile(rb"\S")
_BRACKET = re.compile(rb'["{}\[\]]')
_QUOTE = re.compile(rb'["\\]')

# What may come next between two objects.
_BEGIN, _FIRST, _OBJECT, _COMMA, _NEXT, _AFTER_COMMA, _NOTHING = range(7)
_EXPECTED = {
    _BEGIN: "an object or an array of objects",
    _FIRST: "an object",
    _OBJECT: "an object",
    _COMMA: "a comma or the array's end",
    _NEXT: "the next object",
    _AFTER_COMMA: "the next object",
    _NOTHING: "nothing behind the array",
}


def json_objects(path: Path, longest: int | None, encoding: str | None) -> Iterator[RawLine]:
    """Yield the objects of a JSON text, each with the number of the line on which it begins.

    Raises:
        DataError: something else stands between the objects, or the last one is cut short.
    """
    with open_text(path, encoding) as opened:
        cutter = _Cutter(path, longest)
        number = 1
        while block := opened.read_line(_BLOCK):
            yield from cutter.objects(block, number)
            number += block.endswith(opened.end)
        cutter.check_end(number)


def refuse_another_layout(path: Path, first: bytes, second: bytes, *, is_object: bool) -> None:
    """Refuse a file of lines that begins as a JSON array, or as an object of more lines than one.

    An array's brackets may be missing. `first` and `second` are its first lines that are not blank;
    `is_object` says whether the first is one by itself.

    Raises:
        DataError: with the setting that reads it.
    """
    if first.startswith(b"["):
        found = "begins with a JSON array"
    elif first.startswith(b"{") and first.endswith(b"},") and second.startswith(b"{"):
        found = "has a comma behind its first object, as an array has"
    elif first.startswith(b"{") and second and not is_object and not second.startswith(b"{"):
        found = "begins with a JSON object of more than one line"
    else:
        return
    raise DataError(
        f"{path} {found}; expected one JSON object a line, as the ending .jsonl says",
        f"write {_SETTING}; or write the file with one object a line (`jq -c`)",
    )


class _Cutter:
    """Finds where objects begin and end, block by block."""

    def __init__(self, path: Path, longest: int | None) -> None:
        self._path = path
        self._longest = longest
        self._expected = _BEGIN
        self._depth = 0
        self._in_array = self._in_string = self._escaped = False
        self._parts: list[bytes] = []
        self._size = self._number = 0

    def objects(self, block: bytes, number: int) -> Iterator[RawLine]:
        """Yield the objects that end in the next block; it lies on line `number`."""
        place = 0
        while place < len(block):
            if not self._depth:
                place = self._between(block, place, number)
                continue
            end = self._end(block, place)
            self._keep(block[place:end])
            place = end
            if not self._depth:
                yield self._finished()

    def check_end(self, number: int) -> None:
        """Refuse a text that ends within an object or an array.

        Raises:
            DataError: it does.
        """
        if self._depth or self._expected in (_FIRST, _OBJECT, _COMMA):
            begun = f"the object that begins on line {self._number}" if self._depth else "the array"
            raise DataError(
                f"{self._path} ends on line {number} before {begun} is closed; the file is cut "
                "short, or a quote or a bracket is missing",
                f"write it again, or give the rows as one JSON object a line; {SAY_ENCODING}",
            )

    def _between(self, block: bytes, place: int, number: int) -> int:
        """Return where to go on, behind the next sign that is no white space."""
        match = _SIGN.search(block, place)
        if match is None:
            return len(block)
        sign, start = match.group(), match.start()
        if sign == b"{" and self._expected not in (_COMMA, _NOTHING):
            self._depth, self._number = 1, number
            self._in_array = self._expected in (_FIRST, _OBJECT)
            self._parts, self._size = [sign], 1
        elif sign == b"[" and self._expected == _BEGIN:
            self._expected = _FIRST
        elif sign == b"," and self._expected == _COMMA:
            self._expected = _OBJECT
        elif sign == b"," and self._expected == _NEXT:
            self._expected = _AFTER_COMMA
        elif sign == b"]" and self._expected in (_FIRST, _COMMA):
            self._expected = _NOTHING
        else:
            self._refuse(block[start : start + 40].strip(), number)
        return start + 1

    def _end(self, block: bytes, place: int) -> int:
        """Return where the object ends within the block, or the block's own end."""
        while place < len(block):
            if self._escaped:
                self._escaped = False
                place += 1
                continue
            match = (_QUOTE if self._in_string else _BRACKET).search(block, place)
            if match is None:
                return len(block)
            place = match.end()
            match match.group():
                case b"\\":
                    self._escaped = True
                case b'"':
                    self._in_string = not self._in_string
                case b"{" | b"[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if not self._depth:
                        return place
        return len(block)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if not self._is_over():
            self._parts.append(part)

    def _is_over(self) -> bool:
        return self._longest is not None and self._size > self._longest

    def _finished(self) -> RawLine:
        content, over = b"".join(self._parts), self._is_over()
        self._expected = _COMMA if self._in_array else _NEXT
        return RawLine(self._number, 0, content[:_HEAD] if over else content, self._size, over)

    def _refuse(self, found: bytes, number: int) -> NoReturn:
        raise DataError(
            f"{self._path}: line {number} has {found.decode(errors='backslashreplace')!r}; "
            f"expected {_EXPECTED[self._expected]}, since every row is one JSON object",
            "give a JSON array of objects, or objects one after the other",
        )
