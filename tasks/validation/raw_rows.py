"""The raw rows that count: of each id, what the latest intake that holds it says."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from tasks.records.readers import Line, read_lines
from tasks.stage.errors import DataError
from tasks.stage.outputs import verified

_DIGEST_BYTES = 16

Digests = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class CurrentRow:
    """A row that counts: where it stands, the id that can be read off it, how many share that."""

    intake: Path
    line: Line
    id: str | None
    id_rows: int


@dataclass(frozen=True)
class CurrentRows:
    """Which rows of one file count, over all intakes.

    `id_rows` has an entry a line, in the order of intakes and lines: how many current rows share
    the row's id, 0 where a later intake replaced it. An id that one intake holds twice keeps both
    rows, for a rule to find. `counts` are the lines of each intake.
    """

    folders: tuple[Path, ...]
    file: str
    counts: tuple[int, ...]
    id_rows: NDArray[np.int32]

    @property
    def superseded(self) -> int:
        """How many rows a later intake replaced."""
        return int((self.id_rows == 0).sum())

    def rows(self) -> Iterator[CurrentRow]:
        """The current rows, one at a time."""
        begin = 0
        for folder, count in zip(self.folders, self.counts, strict=True):
            copies = self.id_rows[begin : begin + count].tolist()
            begin += count
            for line in read_lines(folder / self.file) if count else ():
                if copies[line.number - 1]:
                    yield CurrentRow(folder, line, _line_id(line), copies[line.number - 1])


def intake_folders(raw: Path) -> list[Path]:
    """The intakes below a raw folder, oldest first, each checked against its manifest.

    Raises:
        DataError: there is none, or one was changed.
    """
    folders = sorted(path for path in (raw / "intakes").glob("[!.]*") if path.is_dir())
    if not folders:
        raise DataError(
            f"{raw}/intakes holds no intake; expected at least one folder of records",
            "take data in first: `nightloom run`",
        )
    return [verified(folder) for folder in folders]


def find_current_rows(folders: Iterable[Path], file: str) -> CurrentRows:
    """Which rows of `file` count; ids are kept as digests, 16 bytes each."""
    folders = tuple(folders)
    digests, counts = bytearray(), []
    for folder in folders:
        before = len(digests)
        for raw in _raw_lines(folder / file):
            name = _raw_id(raw)
            # A row without an id is told from all others by its place.
            digests += (
                _digest(len(digests).to_bytes(8), b"place") if name is None else _id_digest(name)
            )
        counts.append((len(digests) - before) // _DIGEST_BYTES)
    intakes = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
    rows = _id_rows(_as_digests(bytes(digests)), intakes)
    return CurrentRows(folders, file, tuple(counts), rows)


def id_digests(ids: Iterable[str]) -> Digests:
    """The digests of ids, 16 bytes each."""
    return _as_digests(b"".join(map(_id_digest, ids)))


def _as_digests(content: bytes) -> Digests:
    return np.frombuffer(content, dtype=f"S{_DIGEST_BYTES}")


def _id_digest(name: str) -> bytes:
    return _digest(name.encode(), b"id")


def _digest(content: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, person=person).digest()


def _id_rows(digests: Digests, intakes: NDArray[np.int32]) -> NDArray[np.int32]:
    """For each row, how many rows of the latest intake with its id there are; 0 in earlier ones."""
    if not len(digests):
        return np.zeros(0, np.int32)
    # Stable, so that within an id the intakes rise.
    order = np.argsort(digests, kind="stable")
    ordered, which = digests[order], intakes[order]
    new_id = np.r_[True, ordered[1:] != ordered[:-1]]
    groups = np.cumsum(new_id) - 1
    lasts = np.r_[np.flatnonzero(new_id)[1:], len(ordered)] - 1
    latest = which == which[lasts][groups]
    copies = np.bincount(groups, weights=latest).astype(np.int32)
    rows = np.zeros(len(digests), np.int32)
    rows[order] = np.where(latest, copies[groups], 0)
    return rows


def _raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file as they are, the empty ones too: the last line's number is their count.

    Ingestion lets no line into an intake that is too long to hold.
    """
    if path.exists():
        with path.open("rb") as stream:
            yield from stream


def _line_id(line: Line) -> str | None:
    """What `_identifier` finds, without reading a line twice that was read well."""
    if line.row is None:
        return _raw_id(line.raw)
    identifier = line.row.get("id")
    return identifier if isinstance(identifier, str) else None


def _raw_id(raw: bytes) -> str | None:
    """The id of a row; of a faulty one too, where a forgiving reader still finds it."""
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    identifier = row.get("id") if isinstance(row, dict) else None
    return identifier if isinstance(identifier, str) else None
