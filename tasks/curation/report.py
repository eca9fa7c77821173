"""What curation leaves for people and programs: metrics and a report, with ids and never texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tasks.curation.documents import DocumentChanges
from tasks.curation.leakage import Leakage
from tasks.curation.preparation import Prepared
from tasks.curation.quality import RULE_NAMES
from tasks.curation.selection import Removals, written_splits
from tasks.curation.steps import Step
from tasks.privacy.masking import KINDS
from tasks.records.schema import CURATED_SPLITS

REPORT_FILE = "report.md"
_EXAMPLES = 3
_WAYS = {
    "questions": "rows of train that ask a test question or nearly repeat a test row",
    "few_shot": "rows of train, the few-shot pool, that are a test record",
    "documents": "documents that hold a test question together with its answer",
    "groups": "groups that stand in more than one split",
}


def curation_metrics(
    prepared: Prepared,
    removals: Removals,
    steps: Sequence[Step],
    documents: DocumentChanges,
    leakage: Leakage,
) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    slices = sorted(set(prepared.slices))
    named = written_splits(prepared, removals)
    splits = Counter(
        (CURATED_SPLITS[prepared.splits[row]], name)
        for row, name in enumerate(prepared.slices)
        if row not in removals
    )
    return {
        "records": len(prepared.ids),
        "kept": len(prepared.ids) - len(removals),
        "splits": {split: sum(splits[split, name] for name in slices) for split in named},
        "slices": {split: {name: splits[split, name] for name in slices} for split in named},
        "steps": {
            step.name: {"rows": step.rows, "taken": len(step.taken), "left": step.left}
            for step in steps
        },
        "removed": _by_rule(removals),
        "normalised": {"records": prepared.normalised},
        "masked": {
            "records": _by_kind(prepared.masks.values()),
            "documents": _by_kind(documents.masks.values()),
        },
        "documents": _documents(documents),
        "leaks": {"total": leakage.total, **leakage.counts},
        "leak_examples": [asdict(leak) for found in leakage.examples.values() for leak in found],
        "leaks_compared": leakage.compared,
    }


def _documents(documents: DocumentChanges) -> dict[str, int]:
    found = {"kept": documents.kept, "dropped": len(documents.duplicates)}
    return found | ({"corrections": documents.corrections} if documents.corrections else {})


def _by_rule(removals: Removals) -> dict[str, int]:
    rules = Counter(removal.rule for removal in removals.values())
    # Every rule on quality has its count, a zero too, so that a chart over nights has no holes.
    return dict.fromkeys(RULE_NAMES, 0) | dict(sorted(rules.items()))


def _by_kind(masks: Any) -> dict[str, int]:
    found: Counter[str] = Counter()
    for counts in masks:
        found += counts
    return {kind: found[kind] for kind in KINDS}


def render_report(
    metrics: dict[str, Any], steps: Sequence[Step], prepared: Prepared, removals: Removals
) -> str:
    """Return the report: splits by slice, what each step took with examples, masks and leaks."""
    lines = ["# Curation", "", f"{metrics['kept']} of {metrics['records']} records stay; "]
    lines[-1] += f"{metrics['documents']['kept']} documents."
    if made := metrics["documents"].get("corrections"):
        lines[-1] += f" {made} more are made of feedback: a question with its right answer."
    lines += ["", *_split_table(metrics), "", *_removed_lines(steps, prepared, removals)]
    lines += ["", "## Masked", "", "| kind | in records | in documents |", "|---|---:|---:|"]
    masks = metrics["masked"]
    lines += [f"| {k} | {masks['records'][k]} | {masks['documents'][k]} |" for k in KINDS]
    lines += ["", "## Leaks", "", *_leak_lines(metrics), ""]
    lines.append("Every row's way from its source line is in `lineage.jsonl` beside the splits.")
    return "\n".join(lines) + "\n"


def refusal(reason: str, steps: Sequence[Step], prepared: Prepared, removals: Removals) -> str:
    """Return the report of a night that a step's bound stopped: why, and each row that would go."""
    lines = ["# Curation", "", "**Refused.** " + reason.replace("\n", "  \n"), ""]
    lines += _removed_lines(steps, prepared, removals, examples=len(removals))
    return "\n".join(lines) + "\n"


def _removed_lines(
    steps: Sequence[Step], prepared: Prepared, removals: Removals, examples: int = _EXAMPLES
) -> list[str]:
    lines = ["## Removed", "", "| step | rows in | taken | left |", "|---|---:|---:|---:|"]
    lines += [f"| {s.name} | {s.rows} | {len(s.taken)} | {s.left} |" for s in steps]
    lines.append("")
    for rule, count in _by_rule(removals).items():
        lines.append(f"- {rule}: {count}")
        found = (row for row, removal in removals.items() if removal.rule == rule)
        shown = [row for row, _ in zip(found, range(examples), strict=False)]
        lines += [f"  - {_shown(prepared, removals, row)}" for row in shown]
    return lines


def _split_table(metrics: dict[str, Any]) -> list[str]:
    splits = list(metrics["splits"])
    lines = [f"| slice | {' | '.join(splits)} |", f"|---|{'---:|' * len(splits)}"]
    for name in metrics["slices"][splits[0]]:
        counts = " | ".join(str(metrics["slices"][split][name]) for split in splits)
        lines.append(f"| {name} | {counts} |")
    totals = " | ".join(str(metrics["splits"][split]) for split in splits)
    return [*lines, f"| all | {totals} |"]


def _leak_lines(metrics: dict[str, Any]) -> list[str]:
    compared = metrics["leaks_compared"]
    lines = [
        f"{compared['test']} test rows were looked for in {compared['train']} rows of train and "
        f"{compared['documents']} documents, read back from the finished files.",
        "",
    ]
    for way, told in _WAYS.items():
        lines.append(f"- {metrics['leaks'][way]} {told}")
        found = (leak for leak in metrics["leak_examples"] if leak["way"] == way)
        lines += [f"  - test `{leak['test']}` in `{leak['where']}`" for leak in found]
    if metrics["leaks"]["total"]:
        lines += ["", "**A leak stops promotion**: take these rows out of the source, then rerun."]
    return lines


def _shown(prepared: Prepared, removals: Removals, row: int) -> str:
    removal = removals[row]
    if removal.kept is None:
        return f"`{prepared.ids[row]}`"
    return f"`{prepared.ids[row]}`, {removal.similarity:.2f} like `{prepared.ids[removal.kept]}`"
