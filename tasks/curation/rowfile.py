"""Lines of a file that are found again by their number, without being held in memory."""

from array import array
from pathlib import Path

import orjson

from tasks.records.schema import Record, record_line


class RowFile:
    """Records in a file, one a line, known by their number from 0."""

    def __init__(self, path: Path, offsets: "array[int]") -> None:
        self._path = path
        self._stream = path.open("rb")
        self._offsets = offsets

    @classmethod
    def index(cls, path: Path) -> "RowFile":
        """Return the rows of a file that is there."""
        offsets = array("q", [0])
        with path.open("rb") as stream:
            for line in stream:
                offsets.append(offsets[-1] + len(line))
        return cls(path, offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def line(self, row: int) -> bytes:
        """Return a row as its line, newline included."""
        start = self._offsets[row]
        self._stream.seek(start)
        return self._stream.read(self._offsets[row + 1] - start)

    def record(self, row: int) -> Record:
        """Return a row as the record that it is."""
        return Record.from_row(orjson.loads(self.line(row)))

    def remove(self) -> None:
        """Close the file and delete it."""
        self._stream.close()
        self._path.unlink()


class RowFileWriter:
    """Writes records, and gives them back as a `RowFile`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._stream = path.open("wb")
        self._offsets = array("q", [0])

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def append(self, record: Record) -> None:
        """Write one more row."""
        self.append_line(record_line(record))

    def append_line(self, line: bytes) -> None:
        """Write one more row as its line, newline included."""
        self._stream.write(line)
        self._offsets.append(self._offsets[-1] + len(line))

    def rows(self) -> RowFile:
        """Return what was written."""
        self._stream.close()
        return RowFile(self._path, self._offsets)
