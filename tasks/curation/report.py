"""What curation leaves for people and programs: metrics, a report and the lineage."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.curation.selection import SPLITS, Fate, shared_groups
from tasks.records.files import write_rows

_EXAMPLES = 3


def write_lineage(path: Path, fates: Sequence[Fate]) -> None:
    """Write what became of each record: its split, or the rule that removed it and the kept row."""
    write_rows(
        path,
        (
            {
                "id": fate.record.id,
                "intake": fate.record.intake,
                "split": fate.split,
                "rule": fate.removal.rule if fate.removal else None,
                "kept": fate.removal.kept if fate.removal else None,
                "similarity": fate.removal.similarity if fate.removal else None,
            }
            for fate in fates
        ),
    )


def figures(fates: Sequence[Fate], documents: int, dropped_documents: int) -> dict[str, Any]:
    """The counts of `metrics.json`: by split, by slice, by rule, and leaks."""
    slices = sorted({fate.record.slice for fate in fates})
    splits = Counter((fate.split, fate.record.slice) for fate in fates)
    rules = Counter(fate.removal.rule for fate in fates if fate.removal)
    return {
        "records": len(fates),
        "kept": sum(fate.split is not None for fate in fates),
        "splits": {split: sum(splits[split, name] for name in slices) for split in SPLITS},
        "slices": {split: {name: splits[split, name] for name in slices} for split in SPLITS},
        "removed": dict(sorted(rules.items())),
        "leakage": {
            "shared_groups": shared_groups(fates),
            "removed_rows": sum(n for rule, n in rules.items() if rule.startswith("like_")),
        },
        "documents": {"kept": documents, "dropped": dropped_documents},
    }


def write_report(folder: Path, fates: Sequence[Fate], metrics: dict[str, Any]) -> None:
    """Write `report.md`: splits by slice, and what was removed with examples."""
    slices = sorted({fate.record.slice for fate in fates})
    lines = ["# Curation", "", f"{metrics['kept']} of {metrics['records']} records stay; "]
    lines[-1] += f"{metrics['documents']['kept']} documents."
    lines += ["", f"| slice | {' | '.join(SPLITS)} |", f"|---|{'---:|' * len(SPLITS)}"]
    for name in slices:
        counts = " | ".join(str(metrics["slices"][split][name]) for split in SPLITS)
        lines.append(f"| {name} | {counts} |")
    totals = " | ".join(str(metrics["splits"][split]) for split in SPLITS)
    lines += [f"| all | {totals} |", "", "## Removed", ""]
    for rule, count in metrics["removed"].items():
        lines.append(f"- {rule}: {count}")
        found = [fate for fate in fates if fate.removal and fate.removal.rule == rule]
        lines += [f"  - {_shown(fate)}" for fate in found[:_EXAMPLES]]
    if not metrics["removed"]:
        lines.append("Nothing.")
    leak = metrics["leakage"]
    lines += ["", f"Groups in more than one split: {leak['shared_groups']}. "]
    lines[-1] += f"Rows left out because they are like a held-out one: {leak['removed_rows']}."
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _shown(fate: Fate) -> str:
    removal = fate.removal
    if removal is None or removal.kept is None:
        return f"`{fate.record.id}`"
    return f"`{fate.record.id}`, {removal.similarity:.2f} like `{removal.kept}`"
