"""An intake's files, written row by row as the rows come."""

import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow
from pyarrow import parquet

from tasks.orchestration.intakes import DIGEST_BYTES, DIGESTS
from tasks.orchestration.sources.source import KINDS, Found, Kind

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
        """The writer itself."""
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
        """The SHA-256 of all rows, in hex."""
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
