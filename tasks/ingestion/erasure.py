"""Rows erased from a raw folder: from every intake that held them, and known by hash from then on.

`withdrawn/erased.jsonl` lists them by id and salted hash. It holds no text of a row: it tells
whether a row that is offered, or that lies in a backup, is one of them.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.ingestion.intake_files import DIGESTS, INTAKES, ORIGINS, intake_folders, line_digests
from tasks.ingestion.sources.source import KINDS, Kind
from tasks.records.readers import Line, canonical_json, parse_line
from tasks.records.text import id_form, text_tokens
from tasks.records.withdrawals import FOLDER
from tasks.services.traces import Traces, pieces
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import folder_files, output_folders, write_atomically

ERASED_FILE = "erased.jsonl"
REFERENCE = "reference.json"
_SALT_BYTES = 16
_SHOWN = 5
_FEW = 3


def erased_file(raw: Path) -> Path:
    """Return where a raw folder lists what was erased."""
    return raw / FOLDER / ERASED_FILE


class ErasedRow(BaseModel):
    """A row that was erased: its id, and hashes of its id and of its content under a salt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    erasure: str
    kind: Kind
    id: str
    salt: str
    id_hash: str
    content_hash: str
    intake: str
    line: int
    reason: str
    by: str
    when: str


@dataclass(frozen=True)
class FoundRow:
    """A line of an intake that is to be erased, and the id or place by which it was asked for."""

    intake: Path
    kind: Kind
    line: Line
    name: str

    @property
    def texts(self) -> Iterator[str]:
        """Yield all texts of the row but its id."""
        row = self.line.row
        if row is None:
            yield self.line.raw.decode(errors="replace")
        else:
            yield from _texts({name: value for name, value in row.items() if name != "id"})


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
        name, parts = _name_of(line), [_content(line)]
        if name is not None:
            parts.append(f"id {name}".encode())
        return any((kind, _salted(salt, x)) in self._hashes for salt in self._salts for x in parts)

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


def erased_row(
    found: FoundRow, *, erasure: str, salt: str, reason: str, by: str, now: datetime
) -> ErasedRow:
    """Return how a row is remembered once it is gone."""
    return ErasedRow(
        erasure=erasure,
        kind=found.kind,
        id=found.name,
        salt=salt,
        id_hash=_salted(salt, f"id {found.name}".encode()),
        content_hash=_salted(salt, _content(found.line)),
        intake=found.intake.name,
        line=found.line.number,
        reason=reason,
        by=by,
        when=now.astimezone(UTC).isoformat(timespec="seconds"),
    )


def _salted(salt: str, content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16, key=bytes.fromhex(salt)).hexdigest()


def _content(line: Line) -> bytes:
    """Return what a row says, whatever its id."""
    if line.row is None:
        return line.raw
    return canonical_json({name: value for name, value in line.row.items() if name != "id"})


def _name_of(line: Line) -> str | None:
    """Return a row's id; of a faulty line too, where a forgiving reader still finds it."""
    row: Any = line.row
    if row is None:
        try:
            row = orjson.loads(line.raw)
        except orjson.JSONDecodeError:
            return None
    name = row.get("id") if isinstance(row, dict) else None
    return id_form(name) if isinstance(name, str) else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def find_rows(raw: Path, names: Sequence[str]) -> list[FoundRow]:
    """Return the lines of all intakes, withdrawn ones too, that have one of these ids.

    A line without an id is named by its place, as quarantine shows it: INTAKE/records.jsonl:LINE.
    """
    wanted = set(map(id_form, names))
    return [
        FoundRow(folder, kind, line, name)
        for folder, kind, line in _all_lines(raw)
        for name in (_name_of(line), f"{folder.name}/{kind}.jsonl:{line.number}")
        if name in wanted
    ]


def find_erased(raw: Path, erased: ErasedRows) -> list[FoundRow]:
    """Return the lines of all intakes that were erased before: a backup brought them back."""
    if not erased.rows:
        return []
    return [
        FoundRow(folder, kind, line, _name_of(line) or f"{folder.name}/{kind}.jsonl:{line.number}")
        for folder, kind, line in _all_lines(raw)
        if erased.hold(kind, line)
    ]


def _all_lines(raw: Path) -> Iterator[tuple[Path, Kind, Line]]:
    for folder in intake_folders(raw):
        for kind in KINDS:
            path = folder / f"{kind}.jsonl"
            if not path.exists():
                continue
            with path.open("rb") as stream:
                for number, content in enumerate(stream, start=1):
                    if content.strip():
                        yield folder, kind, parse_line(number, content.rstrip(b"\n"))


@dataclass(frozen=True)
class Told:
    """What rows alone say, and which other rows say some of it too."""

    traces: Traces
    words: frozenset[str]
    others: tuple[str, ...]


def told_by(found: Sequence[FoundRow], raws: Iterable[Path], spared: str) -> Told:
    """Return what rows say that no other row of the raw folders says, nor the text `spared`.

    What is part of an id is none of it either: ids are what an erasure is recorded by.
    """
    texts = {text for row in found for text in row.texts}
    stays = "\n".join([spared, *(row.name for row in found)])
    own = {piece for text in texts for piece in pieces(text) if piece not in stays}
    words = {word for text in texts for word in text_tokens(text)}
    shared: dict[str, list[str]] = {}
    for name, said in _other_rows(found, raws):
        for piece in own:
            if piece in said:
                shared.setdefault(piece, []).append(name)
        lowered = said.casefold()
        words = {word for word in words if word not in lowered}
    # What many rows say is how a set asks, and tells nothing of this row.
    others = [name for names in shared.values() if len(names) <= _FEW for name in names]
    traces = Traces(frozenset(own - shared.keys()), frozenset(row.name for row in found))
    return Told(traces, frozenset(words), tuple(dict.fromkeys(others))[:_SHOWN])


def _other_rows(found: Sequence[FoundRow], raws: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield the id or place and the text of each row but those, of each intake once."""
    erased = {(row.intake.name, row.kind, row.line.number) for row in found}
    seen: set[str] = set()
    for raw in raws:
        for folder, kind, line in _all_lines(raw):
            if folder.name not in seen and (folder.name, kind, line.number) not in erased:
                name = _name_of(line) or f"{folder.name}/{kind}.jsonl:{line.number}"
                texts = FoundRow(folder, kind, line, name).texts
                yield name, "\n".join(" ".join(text.split()) for text in texts)
        seen |= {folder.name for folder in intake_folders(raw)}


def held_objects(raw: Path, found: Iterable[FoundRow], told: Told) -> set[str]:
    """Return the MD5 of each file of the intakes that shows one of the rows."""
    held = {(row.intake.name, name) for row in found for name in (f"{row.kind}.jsonl", DIGESTS)}
    paths = [raw / INTAKES / folder / name for folder, name in sorted(held)]
    paths += [folder / REFERENCE for folder in intake_folders(raw) if _cleaned(folder, told)[1]]
    return {_md5(path) for path in paths if path.exists()}


def erase_from(raw: Path, found: Sequence[FoundRow], told: Told, erased: ErasedRows) -> None:
    """Take rows out of the intakes of a raw folder.

    A line that is erased becomes an empty one, so that the others keep their places. The intake
    says by id and salted hash what it lost, and gets a new manifest. Words that only these rows
    used leave the profiles that intakes carry.
    """
    for folder in intake_folders(raw):
        own = [row for row in found if row.intake.name == folder.name]
        profile, is_other = _cleaned(folder, told)
        if own or is_other:
            _rewrite(folder, own, profile, erased)


def _cleaned(folder: Path, told: Told) -> tuple[str, bool]:
    """Return the profile that an intake carries, cleaned, and whether it was another before."""
    path = folder / REFERENCE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    cleaned = without_words(text, told.words)
    return cleaned, cleaned != text


def _rewrite(folder: Path, own: Sequence[FoundRow], profile: str, erased: ErasedRows) -> None:
    places = {(row.kind, row.line.number) for row in own}
    keys = {(row.kind, key) for row in own for key in line_digests(row.line)[0]}
    with output_folders(folder) as (target,):
        for name in folder_files(folder):
            path, stem = folder / name, Path(name).stem
            if path.suffix == ".jsonl" and any(kind == stem for kind, _ in places):
                _blank(path, target / name, {line for kind, line in places if kind == stem})
            elif name == ORIGINS:
                _filtered(path, target / name, places, ("kind", "line"))
            elif name == DIGESTS:
                _filtered(path, target / name, keys, ("kind", "key"))
            elif name == "intake.json":
                _noted(path, target / name, own, erased)
            elif name == REFERENCE:
                (target / name).write_text(profile, encoding="utf-8")
            else:
                (target / name).write_bytes(path.read_bytes())


def _blank(source: Path, target: Path, lines: set[int]) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        for number, content in enumerate(old, start=1):
            new.write(b"\n" if number in lines else content)


def _filtered(source: Path, target: Path, gone: set[Any], names: tuple[str, str]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(source)
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    parquet.write_table(table.filter(pyarrow.array([row not in gone for row in rows])), target)


def _noted(source: Path, target: Path, own: Sequence[FoundRow], erased: ErasedRows) -> None:
    """Write what an intake lost into its description."""
    content = json.loads(source.read_text(encoding="utf-8"))
    places = {(row.kind, row.line.number) for row in own}
    listed = [row for row in erased.rows if row.intake == source.parent.name]
    last = {(row.kind, row.line): row for row in listed if (row.kind, row.line) in places}
    content["erased"] = content.get("erased", []) + [
        {"kind": x.kind, "id": x.id, "line": x.line, "hash": x.content_hash, "when": x.when}
        for x in last.values()
    ]
    text = json.dumps(content, indent=1, ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")


def without_words(profile: str, words: frozenset[str]) -> str:
    """Return a profile of accepted rows without the words and slices that only erased rows had."""
    if not profile or not words:
        return profile
    content = json.loads(profile)
    named = [content.get("vocabulary", {}).get("terms", {}), content.get("slices", {})]
    gone = [(place, name) for place in named for name in words & place.keys()]
    for place, name in gone:
        del place[name]
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n" if gone else profile


def _md5(path: Path) -> str:
    """Return what DVC knows a file by."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def check_named(names: Sequence[str], found: Iterable[FoundRow], erased: ErasedRows) -> None:
    """Check that every id that was asked for is there.

    Raises:
        ConfigError: one is in no intake; the message says if it was erased before.
    """
    there = {row.name for row in found}
    for name in names:
        if name in there:
            continue
        earlier = next((row for row in erased.rows if row.id == name), None)
        if earlier is not None:
            raise ConfigError(
                f"{name!r} was erased already, on {earlier.when} by {earlier.by}: {earlier.reason}",
                f"`nightloom erase --prove {name}` shows what became of it",
            )
        raise ConfigError(
            f"no intake holds a row with the id {name!r}; nothing was erased",
            "name ids of records or documents, each in full; a line without one by its place, "
            "e.g. INTAKE/records.jsonl:12",
        )
