"""Rows that have no id of their own: the ids under which earlier intakes know them.

Such a row is known by its content. One that is taken in already keeps the id that it got then,
whatever ids are made of now: those of the hub were made of the row's place before. Earlier rows
are read as those of tonight are, so that one that was kept as text of a cell, say, is the same row
as its messages. And where a source shows all of its rows, a new row that answers what a vanished
one answered is that row, corrected: it takes over its id, and so its split, and the old answer is
learned no more.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pyarrow import parquet

from tasks.ingestion.intake_files import DIGEST_BYTES, ORIGINS, intake_folders, read_intake
from tasks.ingestion.row_formats import record_line
from tasks.ingestion.row_ids import has_made_form, with_row, without_id
from tasks.ingestion.sources.source import KINDS, Kind
from tasks.records.readers import Line, canonical_json, read_kept_lines
from tasks.records.text import id_form
from tasks.records.turns import asked_turns

_HUB = "hub"


@dataclass
class _Rows:
    """The rows of one kind, by id: digests of what they hold and of what they answer."""

    content: dict[str, bytes] = field(default_factory=dict)
    prompts: dict[str, bytes] = field(default_factory=dict)

    def names(self) -> dict[bytes, str]:
        """Return the id of each content."""
        return {content: name for name, content in self.content.items()}


@dataclass(frozen=True)
class UnnamedRows:
    """The ids that rows without one of their own have in earlier intakes, by kind and content."""

    names: dict[Kind, dict[bytes, str]]

    def named(self, kind: Kind, line: Line) -> Line:
        """Return the line of a row without an id of its own under the id that it is known by."""
        known = self.names.get(kind)
        if not known or line.row is None:
            return line
        name = known.get(content_key(line.row))
        return line if name is None else with_row(line, line.row | {"id": name})


def content_key(row: dict[str, Any]) -> bytes:
    """Return a digest of a row without its id."""
    return blake2b(canonical_json(without_id(row)), digest_size=DIGEST_BYTES).digest()


def find_unnamed_rows(
    raw: Path,
    source: str,
    offered: dict[Kind, Iterable[Line]],
    *,
    others: Collection[str],
    is_whole: bool,
) -> UnnamedRows:
    """Return the ids that rows of a source without one of their own are known by.

    `offered` are those that the source offers tonight, with ids made of their content. They are
    read only where an earlier intake holds such rows. `others` are the night's other sources, and
    `is_whole` says that what is not offered is no longer there.
    """
    names: dict[Kind, dict[bytes, str]] = {}
    for kind, known in _known_rows(raw, source, others).items():
        names[kind] = known.names()
        if is_whole and known.prompts:
            names[kind] |= _corrections(known, offered[kind])
    return UnnamedRows(names)


def _corrections(known: _Rows, offered: Iterable[Line]) -> dict[bytes, str]:
    """Return the ids of vanished rows by the content of the new ones that correct them.

    Of a prompt one row vanished and one is new: where there are more, which corrects which can't be
    told, and none is replaced.
    """
    names, shown = known.names(), set[bytes]()
    prompts = set(known.prompts.values())
    new: dict[bytes, set[bytes]] = defaultdict(set)
    for line in offered:
        key = content_key(line.row or {})
        shown.add(key)
        if key not in names and (prompt := _prompt_key(line.row or {})) in prompts:
            new[prompt].add(key)
    vanished: dict[bytes, list[str]] = defaultdict(list)
    for name, prompt in known.prompts.items():
        if known.content[name] not in shown:
            vanished[prompt].append(name)
    return {
        next(iter(keys)): vanished[prompt][0]
        for prompt, keys in new.items()
        if len(keys) == len(vanished[prompt]) == 1
    }


def _prompt_key(row: dict[str, Any]) -> bytes:
    """Return a digest of all that a row's answer answers, and of what it belongs to.

    A row of which nobody can tell what it asks is like no other.
    """
    turns = asked_turns(row)
    if turns is None:
        return content_key(row)
    named = row.get("documents")
    documents = [id_form(str(name)) for name in named] if isinstance(named, list) else named
    asked = [(turn.role, turn.content) for turn in turns]
    return content_key({"asked": asked, "documents": documents, "group": row.get("group")})


def _known_rows(raw: Path, source: str, others: Collection[str]) -> dict[Kind, _Rows]:
    """Return the rows without an id of their own that may be a source's, as they are now.

    Rows of a source that params name no longer, and of a time when a night had one and nobody named
    it, are known by their content. What they answer counts where they are surely of this source.
    """
    found: dict[Kind, _Rows] = {kind: _Rows() for kind in KINDS}
    for folder in intake_folders(raw):
        intake = read_intake(folder)
        is_nameless = not intake.sources
        had_places = is_nameless and intake.source == _HUB
        if not (intake.unnamed or had_places):
            continue
        for kind, known in found.items():
            for name, row, origin in _rows(folder, kind):
                made = has_made_form(name) or (had_places and name == origin.place)
                if origin.source in others or not (made or name in known.content):
                    continue
                if kind == "records":
                    row = _as_read_now(row)
                known.content[name] = content_key(row)
                is_own = origin.source == source or (is_nameless and not others)
                if kind == "records" and is_own:
                    known.prompts[name] = _prompt_key(row)
    return found


def _as_read_now(row: dict[str, Any]) -> dict[str, Any]:
    """Return an earlier record as a source that offers it tonight gives it."""
    return record_line(Line(0, b"", row, None)).row or row


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a row came from: its source, and the id that the hub's rows had by their place."""

    source: str
    place: str


def _rows(folder: Path, kind: Kind) -> Iterator[tuple[str, dict[str, Any], _Origin]]:
    """Yield the ids, the rows and the origins of an intake's file."""
    path, origins = folder / f"{kind}.jsonl", _origins(folder, kind)
    for line in read_kept_lines(path) if path.exists() else ():
        name = (line.row or {}).get("id")
        if line.row is not None and isinstance(name, str):
            yield name, line.row, origins.get(line.number, _Origin("", ""))


def _origins(folder: Path, kind: Kind) -> dict[int, _Origin]:
    """Return the origin of each line of an intake's file, where the intake says it."""
    if not (folder / ORIGINS).exists():
        return {}
    table = parquet.read_table(folder / ORIGINS, filters=[("kind", "=", kind)])
    lines, files, at = (table[name].to_pylist() for name in ("line", "file", "source_line"))
    has_sources = "source" in table.column_names
    sources = table["source"].to_pylist() if has_sources else [""] * len(lines)
    return {
        line: _Origin(source, f"{file}/{number - 1}")
        for line, file, number, source in zip(lines, files, at, sources, strict=True)
    }
