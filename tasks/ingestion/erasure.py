"""Rows erased from a raw folder: from every intake that held them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from tasks.ingestion.erased_rows import ErasedRow, ErasedRows, row_content, row_name, salted
from tasks.ingestion.intake_files import (
    DIGESTS,
    INTAKES,
    ORIGINS,
    intake_folders,
    line_digests,
    read_intake,
)
from tasks.ingestion.sources.source import KINDS, Kind
from tasks.records.readers import Line, parse_line
from tasks.records.text import text_tokens
from tasks.records.withdrawals import FOLDER, RowWithdrawal
from tasks.services.traces import Traces, pieces
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import folder_files, output_folders, write_atomically

REFERENCE = "reference.json"
_SHOWN = 5
_FEW = 3


@dataclass(frozen=True)
class FoundRow:
    """A line of an intake that is to be erased, and the id (in NFC) or place it is known by."""

    intake: Path
    kind: Kind
    line: Line
    name: str

    @property
    def ids(self) -> set[str]:
        """Return what it is named by in what was made of it: the id as it is written, too."""
        written = (self.line.row or {}).get("id")
        return {self.name, written} if isinstance(written, str) else {self.name}

    @property
    def source(self) -> str:
        """Return the name of the source that it came from, as its intake says it."""
        path = self.intake / ORIGINS
        if path.exists() and "source" in parquet.read_schema(path).names:
            place = [("kind", "=", self.kind), ("line", "=", self.line.number)]
            for source in parquet.read_table(path, filters=place)["source"].to_pylist():
                return str(source)
        return read_intake(self.intake).source

    @property
    def texts(self) -> Iterator[str]:
        """Yield all texts of the row but its id."""
        row = self.line.row
        if row is None:
            yield self.line.raw.decode(errors="replace")
        else:
            yield from _texts({name: value for name, value in row.items() if name != "id"})


def erased_row(
    found: FoundRow, *, erasure: str, salt: str, reason: str, by: str, now: datetime
) -> ErasedRow:
    """Return how a row is remembered once it is gone."""
    return ErasedRow(
        erasure=erasure,
        kind=found.kind,
        id=found.name,
        salt=salt,
        id_hash=salted(salt, f"id {found.name}".encode()),
        content_hash=salted(salt, row_content(found.line)),
        intake=found.intake.name,
        line=found.line.number,
        source=found.source,
        reason=reason,
        by=by,
        when=now.astimezone(UTC).isoformat(timespec="seconds"),
    )


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
    """Return the lines of all intakes, withdrawn ones too, that have one of these ids, in NFC.

    Whatever source they came from: an id may have been of several, one after the other.
    A line without an id is named by its place, as quarantine shows it: INTAKE/records.jsonl:LINE.
    """
    wanted = set(names)
    return [
        FoundRow(folder, kind, line, name)
        for folder, kind, line in _all_lines(raw)
        for name in (row_name(line), f"{folder.name}/{kind}.jsonl:{line.number}")
        if name in wanted
    ]


def find_erased(raw: Path, erased: ErasedRows) -> list[FoundRow]:
    """Return the lines of all intakes that were erased before: a backup brought them back."""
    if not erased.rows:
        return []
    return [
        FoundRow(folder, kind, line, row_name(line) or f"{folder.name}/{kind}.jsonl:{line.number}")
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
class ErasedText:
    """What rows alone say, and which other rows say some of it too."""

    traces: Traces
    words: frozenset[str]
    others: tuple[str, ...]


def told_by(found: Sequence[FoundRow], raws: Iterable[Path], spared: str) -> ErasedText:
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
    ids = frozenset(name for row in found for name in row.ids)
    traces = Traces(frozenset(own - shared.keys()), ids)
    return ErasedText(traces, frozenset(words), tuple(dict.fromkeys(others))[:_SHOWN])


def _other_rows(found: Sequence[FoundRow], raws: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield the id or place and the text of each row but those, of each intake once."""
    erased = {(row.intake.name, row.kind, row.line.number) for row in found}
    seen: set[str] = set()
    for raw in raws:
        for folder, kind, line in _all_lines(raw):
            if folder.name not in seen and (folder.name, kind, line.number) not in erased:
                name = row_name(line) or f"{folder.name}/{kind}.jsonl:{line.number}"
                texts = list(FoundRow(folder, kind, line, name).texts)
                yield name, "\n".join([*texts, *(" ".join(text.split()) for text in texts)])
        seen |= {folder.name for folder in intake_folders(raw)}


def held_objects(raw: Path, found: Sequence[FoundRow], told: ErasedText) -> set[str]:
    """Return the MD5 of each file of the intakes that shows one of the rows."""
    held = {(row.intake.name, name) for row in found for name in (f"{row.kind}.jsonl", DIGESTS)}
    paths = [raw / INTAKES / folder / name for folder, name in sorted(held)]
    paths += [folder / REFERENCE for folder in intake_folders(raw) if _cleaned(folder, told)[1]]
    paths += [path for path, _ in _with_withdrawals(raw, found)]
    return {_md5(path) for path in paths if path.exists()}


def erase_from(raw: Path, found: Sequence[FoundRow], told: ErasedText, erased: ErasedRows) -> None:
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
    for path, text in _with_withdrawals(raw, found):
        write_atomically(path, text)


def _with_withdrawals(raw: Path, found: Iterable[FoundRow]) -> list[tuple[Path, str]]:
    """Return the files that name withdrawn rows by a digest of what they say, and them without.

    A row without an id is named so; that digest has no salt.
    """
    keys = {line_digests(row.line)[1].hex() for row in found}
    changed = []
    for path in sorted((raw / FOLDER / "rows").glob("[!.]*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        left = [line for line in lines if RowWithdrawal.model_validate_json(line).key not in keys]
        if left != lines:
            changed.append((path, "".join(left)))
    return changed


def _cleaned(folder: Path, told: ErasedText) -> tuple[str, bool]:
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
