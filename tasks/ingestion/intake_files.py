"""An intake's files: written row by row, and read back as the rows that are known already."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict

from tasks.ingestion.sources.source import KINDS, Found, Kind, Mark
from tasks.records.readers import Line, read_kept_lines
from tasks.records.text import id_form, text_sha256
from tasks.records.withdrawals import (
    RowWithdrawal,
    current_intakes,
    withdrawn_intakes,
    withdrawn_rows,
)
from tasks.stage.outputs import verified

INTAKES = "intakes"

DIGESTS = "digests.parquet"

DIGEST_BYTES = 16

_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass
class Known:
    """The rows of one kind over all intakes: key -> the digests that its latest intake holds.

    A key almost always has one digest; the others of those that have more lie in `more`. `owners`
    says which source each came from, where that is asked for.
    """

    latest: dict[bytes, bytes] = field(default_factory=dict)
    more: dict[bytes, set[bytes]] = field(default_factory=dict)
    owners: dict[bytes, str] = field(default_factory=dict)

    def take(self, rows: Iterable[tuple[bytes, bytes, str]], *, owned: bool) -> None:
        """Let the keys and digests of a later intake replace those of the same keys."""
        fresh: dict[bytes, bytes] = {}
        more: dict[bytes, set[bytes]] = {}
        for key, digest, source in rows:
            if fresh.setdefault(key, digest) != digest:
                more.setdefault(key, set()).add(digest)
            if owned:
                self.owners[key] = source
        for key in self.more.keys() & fresh.keys():
            del self.more[key]
        self.latest |= fresh
        self.more |= more

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget keys: what was withdrawn is new if its source has it again."""
        for key in keys:
            self.latest.pop(key, None)
            self.more.pop(key, None)
            self.owners.pop(key, None)

    def holds(self, keys: Sequence[bytes], digest: bytes) -> bool:
        """Return whether the very same row is there already, under the first key that is known."""
        key = next((key for key in keys if key in self.latest), keys[0])
        return self.latest.get(key) == digest or digest in self.more.get(key, ())

    def owner(self, keys: Sequence[bytes]) -> str | None:
        """Return the source of a row's latest intake; None where none holds it, or nobody asked."""
        return next((self.owners[key] for key in keys if key in self.owners), None)


def line_digests(line: Line) -> tuple[tuple[bytes, ...], bytes]:
    """Return what a row is known by, and the digest of its content.

    A row is known by its id in NFC, or by its content where it has none that is text. Intakes of
    before know it by its id as it is written, which then comes second.
    """
    digest = blake2b(line.raw, digest_size=DIGEST_BYTES).digest()
    identifier = (line.row or {}).get("id")
    if not isinstance(identifier, str):
        return (digest,), digest
    return id_keys(identifier), digest


def id_keys(identifier: str) -> tuple[bytes, ...]:
    """Return what a row of this id is known by: the digest of the id in NFC, then as written."""
    # The digests of ids are of another kind, so that an id that is some row's text is not that row.
    names = dict.fromkeys((id_form(identifier), identifier))
    keys = (blake2b(name.encode(), digest_size=DIGEST_BYTES, person=b"id") for name in names)
    return tuple(key.digest() for key in keys)


def intake_folders(raw: Path) -> list[Path]:
    """Return the finished intakes below the raw folder, oldest first; withdrawn ones too."""
    folders = (raw / INTAKES).glob("[!.]*")
    return sorted(folder for folder in folders if folder.is_dir())


class SourceEntry(BaseModel):
    """What an intake says of one of its night's sources, as far as later nights need it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    since: dict[Kind, Mark] = {}


class IntakeEntry(BaseModel):
    """What `intake.json` says, as far as later nights need it.

    `sources` is empty in intakes of a time when a night had one source, whose kind `source` is.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    unnamed: int = 0
    since: dict[Kind, Mark] = {}
    sources: tuple[SourceEntry, ...] = ()


def read_intake(folder: Path) -> IntakeEntry:
    """Read what an intake says of itself."""
    return IntakeEntry.model_validate_json((folder / "intake.json").read_bytes())


def read_known(raw: Path, *, owned: bool) -> dict[Kind, Known]:
    """Read what the current intakes hold together, by kind, without the rows that were withdrawn.

    `owned`: and which source each row is of.

    Raises:
        DataError: an intake does not match its manifest.
    """
    known: dict[Kind, Known] = {kind: Known() for kind in KINDS}
    for each in intake_folders(raw):
        verified(each)  # a withdrawn one too: it stays as it is
    for folder, gone in with_withdrawn_rows(raw):
        for kind in KINDS:
            if folder is not None:
                known[kind].take(intake_rows(folder, kind), owned=owned)
            known[kind].drop(gone[kind])
    return known


def with_withdrawn_rows(raw: Path) -> Iterator[tuple[Path | None, dict[Kind, list[bytes]]]]:
    """Yield each current intake, oldest first, and the keys that were withdrawn after it.

    The intake is None where what was the newest one is no longer current.
    """
    folders = {folder.name: folder for folder in current_intakes(raw)}
    gone = withdrawn_rows(raw)
    for name in sorted(folders.keys() | gone.keys()):
        rows = gone.get(name, ())
        keys = {
            kind: [key for row in rows if row.kind == kind for key in _keys(row)] for kind in KINDS
        }
        yield folders.get(name), keys


def _keys(row: RowWithdrawal) -> tuple[bytes, ...]:
    """Return all that intakes, also those of before, know a withdrawn row by."""
    return (row.digest,) if row.id is None else id_keys(row.id)


def intake_rows(folder: Path, kind: Kind) -> Iterator[tuple[bytes, bytes, str]]:
    """Yield the keys, digests and sources of an intake's rows: kept beside them, else made anew."""
    path = folder / DIGESTS
    one = read_intake(folder).source
    if not path.exists():
        rows = folder / f"{kind}.jsonl"
        if rows.exists():
            for keys, digest in map(line_digests, read_kept_lines(rows)):
                yield keys[0], digest, one
        return
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            sources = columns.get("source", [one] * batch.num_rows)
            found = zip(columns["kind"], columns["key"], columns["digest"], sources, strict=True)
            yield from ((key, digest, source) for of, key, digest, source in found if of == kind)


def read_marks(raw: Path, source: str) -> list[Mapping[Kind, Mark]]:
    """Read how far the queries of a source were read in each intake, oldest first.

    A time when a night had one source named none: its marks are any source's that asks the same.
    The mark of a withdrawn intake, and of those that went on from it, says nothing: its rows are to
    be asked for again.
    """
    withdrawn = withdrawn_intakes(raw).values()
    found: list[Mapping[Kind, Mark]] = []
    for folder in intake_folders(raw):
        if any(item.covers(folder.name) for item in withdrawn):
            continue
        intake = read_intake(folder)
        found += [entry.since for entry in intake.sources if entry.name == source]
        if not intake.sources:
            found.append(intake.since)
    return found


def next_name(raw: Path, now: datetime, digest: str) -> str:
    """Return a name that sorts after all earlier ones, even where the clock was set back.

    `digest` is the SHA-256 of what comes in, in hex.
    """
    stamp = now.astimezone(UTC).strftime(_STAMP)
    earlier = [folder.name.partition("-")[0] for folder in intake_folders(raw)]
    if earlier and stamp <= max(earlier):
        last = datetime.strptime(max(earlier), _STAMP).replace(tzinfo=UTC)
        stamp = (last + timedelta(seconds=1)).strftime(_STAMP)
    return f"{stamp}-{digest[:8]}"


ORIGINS = "origins.parquet"

_COMING = ".coming.partial"

_BATCH = 50_000

_DIGEST = pyarrow.binary(DIGEST_BYTES)

_SOURCE = ("source", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))

_SCHEMAS = {
    ORIGINS: pyarrow.schema(
        [
            ("kind", pyarrow.string()),
            ("line", pyarrow.int64()),
            ("file", pyarrow.string()),
            ("source_line", pyarrow.int64()),
            _SOURCE,
        ]
    ),
    DIGESTS: pyarrow.schema(
        [("kind", pyarrow.string()), ("key", _DIGEST), ("digest", _DIGEST), _SOURCE]
    ),
}


class IntakePart:
    """The rows of one source, in a folder aside; no folder before the first row.

    `counts` says how many rows of each kind were written, `faults` how many of them are at fault.
    """

    def __init__(self, source: str, folder: Path) -> None:
        self._source = source
        self._folder = folder
        self._stack = ExitStack()
        self._rows: dict[Kind, IO[bytes]] = {}
        # 50 bytes a row: they are held, so that a source which fails leaves nothing behind.
        self._tables: dict[str, list[Any]] = {name: [] for name in _SCHEMAS}
        self._pending: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _SCHEMAS}
        self._content = hashlib.sha256()
        self.counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.faults: dict[Kind, int] = dict.fromkeys(KINDS, 0)

    def write(self, kind: Kind, found: Found, key: bytes, digest: bytes) -> None:
        """Write one row; records come before documents."""
        if not self._rows:
            self._open()
        line = found.line
        if any(self.counts.values()):
            self._content.update(b"\n")
        self._content.update(line.raw)
        self._rows[kind].write(line.raw + b"\n")
        self.counts[kind] += 1
        self.faults[kind] += line.row is None
        number = self.counts[kind]
        self._pending[ORIGINS].append((kind, number, found.file, line.number, self._source))
        self._pending[DIGESTS].append((kind, key, digest, self._source))
        if len(self._pending[ORIGINS]) >= _BATCH:
            self._flush()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all rows, in hex."""
        return self._content.hexdigest()

    def rows_file(self, kind: Kind) -> Path:
        """Return the file of the rows of a kind, complete."""
        self._rows[kind].flush()
        return self._folder / f"{kind}.jsonl"

    def tables(self, name: str) -> list[Any]:
        """Return a Parquet file's tables, in order."""
        self._flush()
        return self._tables[name]

    def close(self) -> None:
        """Close the files, and remove those that are still there."""
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self) -> None:
        self._folder.mkdir(parents=True)
        for kind in KINDS:
            stream = (self._folder / f"{kind}.jsonl").open("wb")
            self._rows[kind] = self._stack.enter_context(stream)

    def _flush(self) -> None:
        for name, schema in _SCHEMAS.items():
            if self._pending[name]:
                columns = zip(*self._pending[name], strict=True)
                arrays = [
                    pyarrow.array(list(column), field.type)
                    for column, field in zip(columns, schema, strict=True)
                ]
                self._tables[name].append(pyarrow.Table.from_arrays(arrays, schema=schema))
                self._pending[name].clear()


class IntakeWriter:
    """An intake to come, a part a source, in the order in which the sources were begun."""

    def __init__(self, intakes: Path) -> None:
        self._folder = intakes / _COMING
        self._parts: dict[str, IntakePart] = {}

    def __enter__(self) -> "IntakeWriter":
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close and remove what was not brought into place."""
        for part in self._parts.values():
            part.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def part(self, source: str) -> IntakePart:
        """Return the part of a source."""
        if source not in self._parts:
            self._parts[source] = IntakePart(source, self._folder / source)
        return self._parts[source]

    def drop(self, source: str) -> None:
        """Take back all that was written of a source."""
        self._parts.pop(source).close()

    @property
    def _written(self) -> list[IntakePart]:
        return [part for part in self._parts.values() if any(part.counts.values())]

    @property
    def is_empty(self) -> bool:
        """Whether no row was written."""
        return not self._written

    @property
    def digest(self) -> str:
        """Return a SHA-256 of all rows, in hex."""
        digests = [part.digest for part in self._written]
        return digests[0] if len(digests) == 1 else text_sha256(*digests)

    def place(self, folder: Path) -> None:
        """Bring the files, complete, into a folder on the same disk."""
        for kind in KINDS:
            first, *others = [part.rows_file(kind) for part in self._written]
            first.rename(folder / first.name)
            with (folder / first.name).open("ab") as stream:
                for path in others:
                    with path.open("rb") as rows:
                        shutil.copyfileobj(rows, stream)
        for name, schema in _SCHEMAS.items():
            with parquet.ParquetWriter(folder / name, schema) as writer:
                before = dict.fromkeys(KINDS, 0)
                for part in self._written:
                    for table in part.tables(name):
                        writer.write_table(_after(table, before))
                    before = {kind: before[kind] + part.counts[kind] for kind in KINDS}


def _after(table: Any, before: Mapping[Kind, int]) -> Any:
    """Return a table whose lines, where it has them, come after so many of each kind."""
    if "line" not in table.column_names or not any(before.values()):
        return table
    lines = zip(table["line"].to_pylist(), table["kind"].to_pylist(), strict=True)
    moved = pyarrow.array([line + before[kind] for line, kind in lines], pyarrow.int64())
    return table.set_column(table.column_names.index("line"), "line", moved)
