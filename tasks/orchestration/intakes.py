"""What earlier intakes hold, as digests: which rows are known, how far a source was read."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path

from tasks.orchestration.sources.source import KINDS, Kind, Mark
from tasks.records.readers import Line, read_lines
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

    def holds(self, key: bytes, digest: bytes) -> bool:
        """Whether the very same row is there already."""
        return self.latest.get(key) == digest or digest in self.more.get(key, ())


def line_digests(line: Line) -> tuple[bytes, bytes]:
    """What a row is known by, and the digest of its content.

    A row is known by its id, or by its content where it has none that is text.
    """
    digest = blake2b(line.raw, digest_size=DIGEST_BYTES).digest()
    identifier = (line.row or {}).get("id")
    if not isinstance(identifier, str):
        return digest, digest
    # The digests of ids are of another kind, so that an id that is some row's text is not that row.
    return blake2b(identifier.encode(), digest_size=DIGEST_BYTES, person=b"id").digest(), digest


def intake_folders(raw: Path) -> list[Path]:
    """The finished intakes below the raw folder, oldest first."""
    folders = (raw / INTAKES).glob("[!.]*")
    return sorted(folder for folder in folders if folder.is_dir())


def read_known(raw: Path) -> dict[Kind, Known]:
    """What all intakes hold together, by kind.

    Raises:
        DataError: an intake does not match its manifest.
    """
    known: dict[Kind, Known] = {kind: Known() for kind in KINDS}
    for folder in intake_folders(raw):
        verified(folder)
        for kind in KINDS:
            known[kind].take(_rows(folder, kind))
    return known


def _rows(folder: Path, kind: Kind) -> Iterator[tuple[bytes, bytes]]:
    """The keys and digests of one intake's rows: kept beside them, made anew where they are not."""
    path = folder / DIGESTS
    if not path.exists():
        rows = folder / f"{kind}.jsonl"
        if rows.exists():
            yield from map(line_digests, read_lines(rows))
        return
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            kinds, keys, digests = (batch.column(name).to_pylist() for name in batch.schema.names)
            for of, key, digest in zip(kinds, keys, digests, strict=True):
                if of == kind:
                    yield key, digest


def read_marks(raw: Path) -> list[dict[Kind, Mark]]:
    """How far the queries of each intake were read, oldest first."""
    return [_marks(folder) for folder in intake_folders(raw)]


def _marks(folder: Path) -> dict[Kind, Mark]:
    content = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    since = content.get("since", {})
    return {kind: Mark(**since[kind]) for kind in KINDS if kind in since}


def next_name(raw: Path, now: datetime, digest: str) -> str:
    """A name that sorts after all earlier ones, even where the clock was set back.

    `digest` is the SHA-256 of what comes in, in hex.
    """
    stamp = now.astimezone(UTC).strftime(_STAMP)
    earlier = [folder.name.partition("-")[0] for folder in intake_folders(raw)]
    if earlier and stamp <= max(earlier):
        last = datetime.strptime(max(earlier), _STAMP).replace(tzinfo=UTC)
        stamp = (last + timedelta(seconds=1)).strftime(_STAMP)
    return f"{stamp}-{digest[:8]}"
