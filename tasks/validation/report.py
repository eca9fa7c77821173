"""What validation leaves for people: the quarantined rows and a report."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tasks.validation.merging import Placed, Quarantined

T = TypeVar("T")
_EXAMPLES = 10


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """What the rules say of one file: the rows that stand, the others, what the set breaks."""

    name: str
    accepted: list[Placed[T]]
    quarantined: list[Quarantined]
    superseded: int
    of_the_set: list[str]

    @property
    def current(self) -> int:
        """How many rows there are, good or bad, without those that a later intake replaced."""
        return len(self.accepted) + len(self.quarantined)

    @property
    def share(self) -> float:
        """The share of the current rows that is in quarantine."""
        return len(self.quarantined) / max(self.current, 1)

    @property
    def figures(self) -> dict[str, float]:
        """Counts and the quarantined share, for `metrics.json`."""
        return {
            "current": self.current,
            "accepted": len(self.accepted),
            "quarantined": len(self.quarantined),
            "superseded": self.superseded,
            "quarantine_share": self.share,
        }

    @property
    def broken_rules(self) -> dict[str, int]:
        """How many rows break each rule."""
        return dict(sorted(Counter(r for item in self.quarantined for r in item.rules).items()))


def write_quarantine(folder: Path, verdicts: Sequence[Verdict[Any]]) -> None:
    """Write `quarantine.jsonl`: where each row stands, which rules it breaks and how."""
    lines = [
        json.dumps(asdict(item.place) | {"rules": item.rules, "reason": item.reason})
        for verdict in verdicts
        for item in verdict.quarantined
    ]
    (folder / "quarantine.jsonl").write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")


def write_report(folder: Path, verdicts: Sequence[Verdict[Any]], slices: Mapping[str, int]) -> None:
    """Write `report.md`: counts, slices, broken rules and some of the rows that broke them."""
    lines = [
        "# Validation",
        "",
        "| | current | accepted | quarantined | replaced by a later intake |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {verdict.name} | {verdict.current} | {len(verdict.accepted)} "
        f"| {len(verdict.quarantined)} ({verdict.share:.2%}) | {verdict.superseded} |"
        for verdict in verdicts
    ]
    lines += ["", "| slice | records |", "|---|---:|"]
    lines += [f"| {name} | {count} |" for name, count in sorted(slices.items())]
    for verdict in verdicts:
        if verdict.quarantined:
            lines += ["", f"## {verdict.name.capitalize()} in quarantine", ""]
            lines += [f"- {name}: {count} rows" for name, count in verdict.broken_rules.items()]
            lines += ["", *(f"- {item.shown}" for item in verdict.quarantined[:_EXAMPLES])]
    sites = " and ".join(f"[{v.name}](data_docs/{v.name}/index.html)" for v in verdicts)
    lines += ["", f"Every rule and its result: Data Docs of {sites}."]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
