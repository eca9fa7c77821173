"""The raw rows that count: of each id, what the latest intake that holds it says.

And where each came from: `places.parquet`, one row an accepted record."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, parquet

from tasks.records.readers import Line, read_kept_lines
from tasks.records.schema import PLACES_FILE
from tasks.records.text import id_form
from tasks.records.withdrawals import (
    WITHDRAWN_FILE,
    RowWithdrawal,
    current_intakes,
    withdrawn_intakes,
    withdrawn_rows,
)
from tasks.stage.errors import DataError
from tasks.stage.outputs import verified

INTAKE_FILE = "intake.json"
ORIGINS_FILE = "origins.parquet"
_DIGEST_BYTES = 16
_FEEDBACK = "feedback"  # the kind of a source, as ingestion writes it into an intake
_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("intake", pyarrow.string()),
        ("line", pyarrow.int64()),
        ("file", pyarrow.string()),
        ("source_line", pyarrow.int64()),
    ]
)

Digests = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class CurrentRow:
    """A row that counts: where it stands, the id that can be read off it, how many share that.

    `source` is the name of the row's source where the newest night had several; `is_feedback` says
    that it was of kind feedback.
    """

    intake: Path
    line: Line
    id: str | None
    id_rows: int
    source: str | None = None
    is_feedback: bool = False


@dataclass(frozen=True)
class CurrentRows:
    """Which rows of one file count, over all intakes.

    `id_rows` has an entry a line, in the order of intakes and lines: how many current rows share
    the row's id, 0 where a later intake replaced it or it was withdrawn. An id that one intake
    holds twice keeps both rows, for a rule to find. `counts` are the lines of each intake, and
    `withdrawn` is how many rows are not current because they were withdrawn.
    """

    folders: tuple[Path, ...]
    file: str
    counts: tuple[int, ...]
    id_rows: NDArray[np.int32]
    withdrawn: int

    @property
    def superseded(self) -> int:
        """Return how many rows a later intake replaced."""
        return int((self.id_rows == 0).sum()) - self.withdrawn

    def rows(self) -> Iterator[CurrentRow]:
        """Yield the current rows, one at a time."""
        begin, several = 0, bool(self.folders) and bool(several_sources(self.folders[-1]))
        for folder, count in zip(self.folders, self.counts, strict=True):
            copies = self.id_rows[begin : begin + count].tolist()
            begin += count
            reviewed = _feedback_sources(folder)
            sources = _sources(folder, self.file, count) if several or reviewed else None
            for line in read_kept_lines(folder / self.file) if count else ():
                place = line.number - 1
                if copies[place]:
                    source = sources[place] if sources else None
                    yield CurrentRow(
                        folder,
                        line,
                        _line_id(line),
                        copies[place],
                        source if several else None,
                        source in reviewed,
                    )


def intake_folders(raw: Path) -> list[Path]:
    """Return the current intakes below a raw folder, oldest first, each checked against its
    manifest.

    Raises:
        DataError: there is none, or one was changed.
    """
    folders = current_intakes(raw)
    if not folders:
        withdrawn = any(path.is_dir() for path in (raw / "intakes").glob("[!.]*"))
        found = "no intake that was not withdrawn" if withdrawn else "no intake"
        raise DataError(
            f"{raw}/intakes holds {found}; expected at least one folder of records",
            "take data in first: `nightloom run`"
            + (" (`nightloom intakes` says why each was withdrawn)" if withdrawn else ""),
        )
    return [verified(folder) for folder in folders]


def write_withdrawn(raw: Path, accepted: Path) -> None:
    """Write what was withdrawn beside the accepted rows, for the lineage; nothing where that is
    nothing.
    """
    intakes = [item.model_dump() for item in withdrawn_intakes(raw).values()]
    rows = [
        row.model_dump() | {"newest": newest}
        for newest, found in withdrawn_rows(raw).items()
        for row in found
    ]
    lines = [orjson.dumps({"kind": "intake"} | item) for item in intakes]
    lines += [orjson.dumps(row) for row in rows]
    if lines:
        (accepted / WITHDRAWN_FILE).write_bytes(b"\n".join(lines) + b"\n")


def bring_back(intake: Path) -> str:
    """Return what helps where an intake is damaged: no row that lies nowhere else is lost."""
    return (
        f"move {intake} out of {intake.parent} and keep it, as its source may no longer have its "
        f"rows; then `dvc checkout {intake}` brings back what was recorded. Where that is nothing, "
        "or damaged too, move it out again: `nightloom run` takes in what the source has"
    )


def several_sources(intake: Path) -> list[str]:
    """Return the names of the sources that the night of an intake had; none where it had one."""
    names = [item["name"] for item in _about(intake).get("sources", ())]
    return names if len(names) > 1 else []


def _feedback_sources(intake: Path) -> frozenset[str]:
    """Return the names of an intake's sources that served questions were read from."""
    sources = _about(intake).get("sources", ())
    return frozenset(item["name"] for item in sources if item.get("kind") == _FEEDBACK)


def _sources(intake: Path, file: str, count: int) -> list[str]:
    """Return the source of each of the `count` lines of an intake's file.

    An intake of a time when a night had one source does not say it of its rows.
    """
    path = intake / ORIGINS_FILE
    one = str(_about(intake).get("source"))
    if not path.exists() or "source" not in parquet.read_schema(path).names:
        return [one] * count
    kind = file.removesuffix(".jsonl")
    table = parquet.read_table(path, columns=["line", "source"], filters=[("kind", "=", kind)])
    found = dict(zip(table["line"].to_pylist(), table["source"].to_pylist(), strict=True))
    return [found.get(line, one) for line in range(1, count + 1)]


def _about(intake: Path) -> dict[str, Any]:
    """Return what an intake says of itself; nothing where it says nothing."""
    path = intake / INTAKE_FILE
    content: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {}
    return content


def find_current_rows(
    folders: Iterable[Path], file: str, withdrawn: Mapping[str, Sequence[RowWithdrawal]]
) -> CurrentRows:
    """Return which rows of `file` count; ids are kept as digests, 16 bytes each.

    `withdrawn` are the rows that left, by the newest intake that there was then: of an id, what
    comes last counts, an intake's rows or that.
    """
    folders = tuple(folders)
    gone = _Gone.of(folders, file.partition(".")[0], withdrawn)
    digests, counts, lines_gone = bytearray(), list[int](), list[int]()
    for place, folder in enumerate(folders):
        count = 0
        for raw in _raw_lines(folder / file):
            name = _raw_id(raw)
            if gone.holds_line(place, raw):
                lines_gone.append(sum(counts[::2]) + count)
            # A row without an id is told from all others by its place.
            digests += (
                _digest(len(digests).to_bytes(8), b"place") if name is None else _id_digest(name)
            )
            count += 1
        digests += b"".join(gone.ids[place])
        counts += [count, len(gone.ids[place])]
    # An even number is an intake, an odd one is what was withdrawn after it.
    events = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    rows, last = _id_rows(_as_digests(bytes(digests)), events)
    are_rows = events % 2 == 0
    rows, left = rows[are_rows], last[are_rows] % 2 == 1
    rows[lines_gone], left[lines_gone] = 0, True
    return CurrentRows(folders, file, tuple(counts[::2]), rows, int(left.sum()))


@dataclass(frozen=True)
class _Gone:
    """Rows of one kind that were withdrawn after each intake: by id, and lines without one."""

    ids: tuple[tuple[bytes, ...], ...]
    lines: Mapping[bytes, int]

    @classmethod
    def of(
        cls, folders: Sequence[Path], kind: str, withdrawn: Mapping[str, Sequence[RowWithdrawal]]
    ) -> "_Gone":
        """Sort withdrawn rows by the last of the current intakes that they can be in."""
        names = [folder.name for folder in folders]
        ids: list[set[bytes]] = [set() for _ in names]
        lines: dict[bytes, int] = {}
        for newest, rows in withdrawn.items():
            place = bisect_right(names, newest) - 1
            for row in rows if place >= 0 else ():
                if row.kind == kind and row.id is not None:
                    ids[place].add(row.digest)
                elif row.kind == kind:
                    lines[row.digest] = place
        return cls(tuple(tuple(sorted(found)) for found in ids), lines)

    def holds_line(self, place: int, raw: bytes) -> bool:
        """Return whether a line of the intake at a place was withdrawn by its content."""
        if not self.lines:
            return False
        digest = hashlib.blake2b(raw.removesuffix(b"\n"), digest_size=_DIGEST_BYTES).digest()
        return place <= self.lines.get(digest, -1)


def id_digests(ids: Iterable[str]) -> Digests:
    """Return the digests of ids in NFC, 16 bytes each."""
    return _as_digests(b"".join(map(_id_digest, ids)))


def _as_digests(content: bytes) -> Digests:
    return np.frombuffer(content, dtype=f"S{_DIGEST_BYTES}")


def _id_digest(name: str) -> bytes:
    return _digest(id_form(name).encode(), b"id")


def _digest(content: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, person=person).digest()


def _id_rows(
    digests: Digests, events: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return for each entry how many of the last event have its id, 0 in earlier ones; and that
    event. `events` rise.
    """
    if not len(digests):
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    # Stable, so that within an id the events rise.
    order = np.argsort(digests, kind="stable")
    ordered, which = digests[order], events[order]
    new_id = np.r_[True, ordered[1:] != ordered[:-1]]
    groups = np.cumsum(new_id) - 1
    lasts = np.r_[np.flatnonzero(new_id)[1:], len(ordered)] - 1
    latest = which == which[lasts][groups]
    copies = np.bincount(groups, weights=latest).astype(np.int32)
    rows, last = np.zeros(len(digests), np.int32), np.zeros(len(digests), np.int32)
    rows[order] = np.where(latest, copies[groups], 0)
    last[order] = which[lasts][groups]
    return rows, last


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file as they are, the empty ones too: the last line's number is their
    count.

    Ingestion lets no line into an intake that is too long to hold.
    """
    if path.exists():
        with path.open("rb") as stream:
            yield from stream


def _line_id(line: Line) -> str | None:
    """Return what `_raw_id` finds in NFC, without reading a line twice that was read well."""
    identifier = _raw_id(line.raw) if line.row is None else line.row.get("id")
    return id_form(identifier) if isinstance(identifier, str) else None


def _raw_id(raw: bytes) -> str | None:
    """Return the id of a row; of a faulty one too, where a forgiving reader still finds it."""
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    identifier = row.get("id") if isinstance(row, dict) else None
    return identifier if isinstance(identifier, str) else None


@dataclass(frozen=True)
class Origins:
    """The source file and line of each line of an intake's `records.jsonl` or `documents.jsonl`.

    `lines` rise; `files` are names, `source_lines` numbers, both by the position in `lines`. None
    of them where the intake says nothing: its own file is the source then.
    """

    intake: Path
    kind: str
    lines: NDArray[np.int64] | None
    files: Any
    source_lines: NDArray[np.int64] | None

    @classmethod
    def read(cls, intake: Path, kind: str) -> "Origins":
        """Return the origins of an intake's records or documents, as `kind` says."""
        path = intake / ORIGINS_FILE
        if not path.exists():
            return cls(intake, kind, None, None, None)
        table = parquet.read_table(
            path, columns=["line", "file", "source_line"], filters=[("kind", "=", kind)]
        ).sort_by("line")
        files = compute.dictionary_encode(table["file"].combine_chunks())
        return cls(intake, kind, table["line"].to_numpy(), files, table["source_line"].to_numpy())

    def of(self, lines: Sequence[int]) -> tuple[Any, NDArray[np.int64]]:
        """Return the source files and source lines of lines of the intake's file.

        Raises:
            DataError: the intake's origins do not know a line.
        """
        wanted = np.asarray(lines, np.int64)
        if self.lines is None or self.source_lines is None:
            return pyarrow.array([f"{self.kind}.jsonl"] * len(wanted), pyarrow.string()), wanted
        places = np.searchsorted(self.lines, wanted)
        found = places < len(self.lines)
        found[found] = self.lines[places[found]] == wanted[found]
        if not found.all():
            raise DataError(
                f"{self.intake / ORIGINS_FILE} does not say where line {wanted[~found][0]} of "
                f"{self.kind}.jsonl came from; expected one row a line, so that a row can be "
                "followed back to its source",
                bring_back(self.intake),
            )
        files = self.files.take(pyarrow.array(places)).cast(pyarrow.string())
        return files, self.source_lines[places]


class PlacesWriter:
    """Writes `places.parquet` a batch at a time; the rows keep the order in which they come."""

    def __init__(self, folder: Path) -> None:
        self._writer = parquet.ParquetWriter(folder / PLACES_FILE, _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def write(self, origins: Origins, ids: Sequence[str], lines: Sequence[int]) -> None:
        """Write the rows of one intake's records."""
        if not ids:
            return
        files, source_lines = origins.of(lines)
        intakes = pyarrow.array([origins.intake.name] * len(ids), pyarrow.string())
        columns = [
            pyarrow.array(ids, pyarrow.string()),
            intakes,
            pyarrow.array(lines, pyarrow.int64()),
            files,
            pyarrow.array(source_lines, pyarrow.int64()),
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=_SCHEMA))
