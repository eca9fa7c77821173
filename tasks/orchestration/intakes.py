"""What earlier intakes hold: their rows by id, and the next intake's name."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from tasks.records.readers import Line, canonical_json, parse_line
from tasks.stage.outputs import verified

INTAKES = "intakes"
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass
class Known:
    """The rows of one file over all intakes: id -> the digests its latest intake holds."""

    digests: dict[str, set[str]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, lines: Sequence[Line]) -> None:
        """Let a later intake's rows replace those of the same ids."""
        latest: dict[str, set[str]] = {}
        for line in lines:
            latest.setdefault(line_key(line), set()).add(line_digest(line))
            if line.row is not None:
                self.rows[line_key(line)] = line.row
        self.digests |= latest

    def holds(self, line: Line) -> bool:
        """Whether the very same row is there already."""
        return line_digest(line) in self.digests.get(line_key(line), set())


def line_key(line: Line) -> str:
    """What a row is known by: its id, or its digest where it has none that is text."""
    identifier = (line.row or {}).get("id")
    return identifier if isinstance(identifier, str) else f"\0{line_digest(line)}"


def line_digest(line: Line) -> str:
    """The SHA-256 of a row's content, whatever the order of its keys."""
    content = line.raw if line.row is None else canonical_json(line.row)
    return sha256(content).hexdigest()


def intake_folders(raw: Path) -> list[Path]:
    """The finished intakes below the raw folder, oldest first."""
    folders = (raw / INTAKES).glob("[!.]*")
    return sorted(folder for folder in folders if folder.is_dir())


def read_known(raw: Path, name: str) -> Known:
    """What the file `name` of all intakes holds together.

    Raises:
        DataError: an intake does not match its manifest.
    """
    known = Known()
    for folder in intake_folders(raw):
        path = verified(folder) / name
        if path.exists():
            lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
            known.take(
                [parse_line(number, line) for number, line in enumerate(lines, start=1) if line]
            )
    return known


def next_name(raw: Path, now: datetime, content: Sequence[bytes]) -> str:
    """A name that sorts after all earlier ones, even where the clock was set back."""
    stamp = now.astimezone(UTC).strftime(_STAMP)
    earlier = [folder.name.partition("-")[0] for folder in intake_folders(raw)]
    if earlier and stamp <= max(earlier):
        last = datetime.strptime(max(earlier), _STAMP).replace(tzinfo=UTC)
        stamp = (last + timedelta(seconds=1)).strftime(_STAMP)
    digest = sha256(b"\n".join(content)).hexdigest()
    return f"{stamp}-{digest[:8]}"


def profile(records: Known, documents: Known) -> str:
    """A profile of what is known, as JSON: counts, mean lengths in characters, slice shares."""
    rows = list(records.rows.values())
    slices = sorted(str(row.get("slice", "")) for row in rows)
    texts = [str(row.get("text", "")) for row in documents.rows.values()]
    content = {
        "records": len(rows),
        "documents": len(texts),
        "mean_question_characters": _mean([str(row.get("question", "")) for row in rows]),
        "mean_answer_characters": _mean([str(row.get("answer", "")) for row in rows]),
        "mean_document_characters": _mean(texts),
        "slices": {name: slices.count(name) / len(slices) for name in sorted(set(slices))},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _mean(texts: Sequence[str]) -> float | None:
    return round(sum(map(len, texts)) / len(texts), 2) if texts else None
