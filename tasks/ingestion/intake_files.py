"""An intake's files: written row by row, and read back as the rows that are known already."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow
from pyarrow import parquet

from tasks.ingestion.sources.source import KINDS, Found, Kind, Mark
from tasks.records.readers import Line, read_kept_lines
from tasks.records.text import id_form
from tasks.records.withdrawals import current_intakes, withdrawn_intakes, withdrawn_rows
from tasks.stage.outputs import verified

INTAKES = "intakes"

DIGESTS = "digests.parquet"

DIGEST_BYTES = 16

_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass
class Known:
    """The rows of one kind over all intakes: key -> the digests that its latest intake holds.

    A key almost always has one digest; the others of those that have more lie in `more`.
    """

    latest: dict[bytes, bytes] = field(default_factory=dict)
    more: dict[bytes, set[bytes]] = field(default_factory=dict)

    def take(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Let the keys and digests of a later intake replace those of the same keys."""
        fresh: dict[bytes, bytes] = {}
        more: dict[bytes, set[bytes]] = {}
        for key, digest in rows:
            if fresh.setdefault(key, digest) != digest:
                more.setdefault(key, set()).add(digest)
        for key in self.more.keys() & fresh.keys():
            del self.more[key]
        self.latest |= fresh
        self.more |= more

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget keys: what was withdrawn is new if its source has it again."""
        for key in keys:
            self.latest.pop(key, None)
            self.more.pop(key, None)

    def holds(self, keys: Sequence[bytes], digest: bytes) -> bool:
        """Return whether the very same row is there already, under the first key that is known."""
        key = next((key for key in keys if key in self.latest), keys[0])
        return self.latest.get(key) == digest or digest in self.more.get(key, ())


def line_digests(line: Line) -> tuple[tuple[bytes, ...], bytes]:
    """Return what a row is known by, and the digest of its content.

    A row is known by its id in NFC, or by its content where it has none that is text. Intakes of
    before know it by its id as it is written, which then comes second.
    """
    digest = blake2b(line.raw, digest_size=DIGEST_BYTES).digest()
    identifier = (line.row or {}).get("id")
    if not isinstance(identifier, str):
        return (digest,), digest
    # The digests of ids are of another kind, so that an id that is some row's text is not that row.
    names = dict.fromkeys((id_form(identifier), identifier))
    keys = (blake2b(name.encode(), digest_size=DIGEST_BYTES, person=b"id") for name in names)
    return tuple(key.digest() for key in keys), digest


def intake_folders(raw: Path) -> list[Path]:
    """Return the finished intakes below the raw folder, oldest first; withdrawn ones too."""
    folders = (raw / INTAKES).glob("[!.]*")
    return sorted(folder for folder in folders if folder.is_dir())


def read_known(raw: Path) -> dict[Kind, Known]:
    """Read what the current intakes hold together, by kind, without the rows that were withdrawn.

    Raises:
        DataError: an intake does not match its manifest.
    """
    known: dict[Kind, Known] = {kind: Known() for kind in KINDS}
    for each in intake_folders(raw):
        verified(each)  # a withdrawn one too: it stays as it is
    for folder, gone in with_withdrawn_rows(raw):
        for kind in KINDS:
            if folder is not None:
                known[kind].take(intake_rows(folder, kind))
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
        keys = {kind: [row.digest for row in rows if row.kind == kind] for kind in KINDS}
        yield folders.get(name), keys


def intake_rows(folder: Path, kind: Kind) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and digests of an intake's rows: kept beside them, else made anew."""
    path = folder / DIGESTS
    if not path.exists():
        rows = folder / f"{kind}.jsonl"
        if rows.exists():
            for keys, digest in map(line_digests, read_kept_lines(rows)):
                yield keys[0], digest
        return
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            kinds, keys, digests = (batch.column(name).to_pylist() for name in batch.schema.names)
            for of, key, digest in zip(kinds, keys, digests, strict=True):
                if of == kind:
                    yield key, digest


def read_marks(raw: Path) -> list[dict[Kind, Mark]]:
    """Read how far the queries of each intake were read, oldest first.

    The mark of a withdrawn intake, and of those that went on from it, says nothing: its rows are to
    be asked for again.
    """
    withdrawn = withdrawn_intakes(raw).values()
    return [
        _marks(folder)
        for folder in intake_folders(raw)
        if not any(item.covers(folder.name) for item in withdrawn)
    ]


def _marks(folder: Path) -> dict[Kind, Mark]:
    content = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    since = content.get("since", {})
    return {kind: Mark(**since[kind]) for kind in KINDS if kind in since}


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

_SCHEMAS = {
    ORIGINS: pyarrow.schema(
        [
            ("kind", pyarrow.string()),
            ("line", pyarrow.int64()),
            ("file", pyarrow.string()),
            ("source_line", pyarrow.int64()),
        ]
    ),
    DIGESTS: pyarrow.schema([("kind", pyarrow.string()), ("key", _DIGEST), ("digest", _DIGEST)]),
}


class IntakeWriter:
    """Rows, their origins and their digests, in a folder aside; none before the first row.

    `counts` says how many rows of each kind were written, `faults` how many of them are at fault.
    """

    def __init__(self, intakes: Path) -> None:
        self._folder = intakes / _COMING
        self._stack = ExitStack()
        self._rows: dict[Kind, IO[bytes]] = {}
        self._tables: dict[str, Any] = {}
        self._pending: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _SCHEMAS}
        self._content = hashlib.sha256()
        self.counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.faults: dict[Kind, int] = dict.fromkeys(KINDS, 0)

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
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

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
        self._pending[ORIGINS].append((kind, self.counts[kind], found.file, line.number))
        self._pending[DIGESTS].append((kind, key, digest))
        if len(self._pending[ORIGINS]) >= _BATCH:
            self._flush()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all rows, in hex."""
        return self._content.hexdigest()

    def place(self, folder: Path) -> None:
        """Move the files, complete, into a folder that lies beside the writer's own."""
        self._flush()
        self._stack.close()
        for path in sorted(self._folder.iterdir()):
            path.rename(folder / path.name)

    def _open(self) -> None:
        self._folder.mkdir(parents=True)
        for kind in KINDS:
            stream = (self._folder / f"{kind}.jsonl").open("wb")
            self._rows[kind] = self._stack.enter_context(stream)
        for name, schema in _SCHEMAS.items():
            writer = parquet.ParquetWriter(self._folder / name, schema)
            self._tables[name] = self._stack.enter_context(writer)

    def _flush(self) -> None:
        for name, schema in _SCHEMAS.items():
            if self._pending[name]:
                columns = zip(*self._pending[name], strict=True)
                arrays = [
                    pyarrow.array(list(column), field.type)
                    for column, field in zip(columns, schema, strict=True)
                ]
                self._tables[name].write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                self._pending[name].clear()
