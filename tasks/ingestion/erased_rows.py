"""The list of rows that were erased from a raw folder: they are known by hash from then on.

`withdrawn/erased.jsonl` lists them by id and salted hash. It holds no text of a row: it tells
whether a row that is offered, or that lies in a backup, is one of them.
"""

import hashlib
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.ingestion.sources.source import Kind
from tasks.records.readers import Line, canonical_json
from tasks.records.text import id_form
from tasks.records.withdrawals import FOLDER
from tasks.stage.errors import DataError
from tasks.stage.outputs import write_atomically

ERASED_FILE = "erased.jsonl"
_SALT_BYTES = 16
_ABOUT = ("id", "license")


def erased_file(raw: Path) -> Path:
    """Return where a raw folder lists what was erased."""
    return raw / FOLDER / ERASED_FILE


class ErasedRow(BaseModel):
    """A row that was erased: its id, and hashes of its id and of its content under a salt.

    `intake`, `line` and `source` say where it was and whose it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    erasure: str
    kind: Kind
    id: str
    salt: str
    id_hash: str
    content_hash: str
    intake: str
    line: int
    source: str
    reason: str
    by: str
    when: str


@dataclass(frozen=True)
class ErasedRows:
    """The rows that must not be here: those of a list."""

    rows: tuple[ErasedRow, ...]

    @classmethod
    def read(cls, path: Path) -> "ErasedRows":
        """Return the rows of a file; none where there is no file.

        Raises:
            DataError: a line is no erased row.
        """
        lines = path.read_bytes().splitlines() if path.exists() else []
        try:
            return cls(tuple(ErasedRow.model_validate_json(line) for line in lines))
        except ValidationError as error:
            raise DataError(
                f"{path} does not list what was erased: {' '.join(str(error).split())[:300]}. "
                "Without it a row could be learned from again that must not be",
                "bring the file back from a backup",
            ) from None

    def joined(self, *others: "ErasedRows") -> "ErasedRows":
        """Return the rows of all lists, each once."""
        return ErasedRows(tuple(dict.fromkeys(row for x in (self, *others) for row in x.rows)))

    def write(self, path: Path) -> None:
        """Write the list, whole or not at all, where it is another than the file's."""
        text = "".join(f"{row.model_dump_json()}\n" for row in self.rows)
        if text != (path.read_text(encoding="utf-8") if path.exists() else ""):
            write_atomically(path, text)

    def hold(self, kind: Kind, line: Line) -> bool:
        """Return whether a row is one of them, by its id or by its content."""
        if not self._hashes:
            return False
        name, parts = row_name(line), [row_content(line)]
        if name is not None:
            parts.append(f"id {name}".encode())
        return any((kind, salted(salt, x)) in self._hashes for salt in self._salts for x in parts)

    @property
    def salt(self) -> str:
        """Return the salt of the list, a new one if it has none."""
        return self.rows[0].salt if self.rows else secrets.token_hex(_SALT_BYTES)

    @cached_property
    def _hashes(self) -> frozenset[tuple[str, str]]:
        return frozenset(
            (x.kind, hashed) for x in self.rows for hashed in (x.id_hash, x.content_hash)
        )

    @cached_property
    def _salts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.salt for row in self.rows))


def salted(salt: str, content: bytes) -> str:
    """Return the hash of an id or of a content under a salt, in hex."""
    return hashlib.blake2b(content, digest_size=16, key=bytes.fromhex(salt)).hexdigest()


def row_content(line: Line) -> bytes:
    """Return what a row says, whatever its id, and the license that params give it."""
    if line.row is None:
        return line.raw
    return canonical_json({name: x for name, x in line.row.items() if name not in _ABOUT})


def row_name(line: Line) -> str | None:
    """Return a row's id; of a faulty line too, where a forgiving reader still finds it."""
    row: Any = line.row
    if row is None:
        try:
            row = orjson.loads(line.raw)
        except orjson.JSONDecodeError:
            return None
    name = row.get("id") if isinstance(row, dict) else None
    return id_form(name) if isinstance(name, str) else None
