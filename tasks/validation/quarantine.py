"""The rows that are left out: one line each in `quarantine.jsonl`, and the worst of them."""

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.validation.features import FeatureRow
from tasks.validation.raw_rows import Origins
from tasks.validation.suites import Rule

QUARANTINE_FILE = "quarantine.jsonl"
_RAW_CHARACTERS = 500
_WORST = 3


@dataclass(frozen=True, slots=True)
class Breach:
    """One rule that a row breaks, and how."""

    rule: Rule
    reason: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that is left out: where it stands, where it came from, what it breaks."""

    intake: str
    file: str
    line: int
    source_file: str
    source_line: int
    id: str | None
    rules: tuple[str, ...]
    fatal: int
    reason: str

    @property
    def shown(self) -> str:
        """Return the place and the reason on one line."""
        origin = ""
        if (self.source_file, self.source_line) != (self.file, self.line):
            origin = f" from {self.source_file}:{self.source_line}"
        return f"{self.intake}/{self.file}:{self.line}{origin} (id {self.id!r}): {self.reason}"


class Quarantine:
    """Writes quarantined rows of one file, and keeps the worst three.

    Worst are those that break the most fatal rules, then the most rules, then those that stand
    first.
    """

    def __init__(self, stream: BinaryIO, kind: str) -> None:
        self._stream = stream
        self.kind = kind
        self._origins: dict[Path, Origins] = {}
        self._worst: list[tuple[int, int, int, Quarantined]] = []
        self.count = 0

    @property
    def worst(self) -> list[Quarantined]:
        """Return the worst three rows so far, worst first."""
        return [item for *_, item in self._worst]

    def add(self, rows: Sequence[tuple[FeatureRow, Sequence[Breach]]]) -> None:
        """Write some rows, in their order."""
        items = [self._quarantined(row, breaches) for row, breaches in rows]
        for item, (row, _) in zip(items, rows, strict=True):
            content = {
                "intake": item.intake,
                "file": item.file,
                "line": item.line,
                "source_file": item.source_file,
                "source_line": item.source_line,
                "id": item.id,
                "rules": item.rules,
                "reason": item.reason,
                "raw": row.raw.decode(errors="backslashreplace")[:_RAW_CHARACTERS],
            }
            self._stream.write(json.dumps(content).encode() + b"\n")
        ranked = [
            (-item.fatal, -len(item.rules), place, item)
            for place, item in enumerate(items, start=self.count)
        ]
        self._worst = heapq.nsmallest(_WORST, [*self._worst, *ranked])
        self.count += len(items)

    def _quarantined(self, row: FeatureRow, breaches: Sequence[Breach]) -> Quarantined:
        if row.intake not in self._origins:
            # Rows come intake by intake, so one is enough to hold.
            self._origins = {row.intake: Origins.read(row.intake, self.kind)}
        files, lines = self._origins[row.intake].of([row.number])
        return Quarantined(
            row.intake.name,
            f"{self.kind}.jsonl",
            row.number,
            str(files[0].as_py()),
            int(lines[0]),
            row.features["id"],
            tuple(breach.rule.name for breach in breaches),
            sum(breach.rule.severity == "fatal" for breach in breaches),
            "; ".join(breach.reason for breach in breaches),
        )
