"""The steps of curation: how many rows came to each, how many it took, and whether it may."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tasks.curation.params import RemovedShares
from tasks.curation.preparation import Prepared
from tasks.curation.questions import question_text
from tasks.curation.selection import Removals
from tasks.records.files import write_rows
from tasks.stage.shares import EXAMPLES, Taken, check_share, shortened

REMOVED_FILE = "removed.jsonl"
# The rules of each step but the first, which is of every other rule.
_RULES = {
    "duplicates": ("exact_duplicate", "near_duplicate"),
    "leaks": ("like_test", "like_validation", "asks_test_question"),
}
_STEP_OF = {rule: step for step, rules in _RULES.items() for rule in rules}
_REMEDIES = {
    "quality": "mend these rows, or the rules of curation.quality that they break",
    "duplicates": "look whether these rows are the same; if not, raise "
    "curation.duplicate_similarity",
    "leaks": "give rows that belong together one `group`, so that they fall into one split; or "
    "raise curation.leak_similarity",
}


@dataclass(frozen=True)
class StepCount:
    """How many rows came to a step, and how many of them it removed."""

    name: str
    rows: int
    removed: int


def step_counts(rows: int, removals: Removals) -> list[StepCount]:
    """Return the steps in their order."""
    counts = Counter(_STEP_OF.get(removal.rule, "quality") for removal in removals.values())
    found = []
    for name in RemovedShares.model_fields:
        found.append(StepCount(name, rows, counts[name]))
        rows -= counts[name]
    return found


def check_shares(
    prepared: Prepared, removals: Removals, bounds: RemovedShares, scratch: Path
) -> None:
    """Refuse the night where a step took too many rows; all that were removed are then in a file.

    Raises:
        GateError: a step took more than its bound of the rows that came to it.
    """
    removed_file = scratch / REMOVED_FILE
    removed_file.unlink(missing_ok=True)
    for step in step_counts(len(prepared.ids), removals):
        bound = getattr(bounds, step.name)
        if step.removed > bound * step.rows:
            write_rows(removed_file, (_row(prepared, removals, row) for row in sorted(removals)))
        check_share(
            Taken(step.removed, step.rows, f"rows were removed by the step {step.name}",
                  _examples(prepared, removals, step.name)),
            bound,
            setting=f"curation.max_removed_share.{step.name}",
            remedy=f"{removed_file} lists them all; {_REMEDIES[step.name]}",
        )  # fmt: skip


def _row(prepared: Prepared, removals: Removals, row: int) -> dict[str, object]:
    removal = removals[row]
    kept = None if removal.kept is None else prepared.ids[removal.kept]
    return {
        "id": prepared.ids[row],
        "rule": removal.rule,
        "kept": kept,
        "similarity": removal.similarity,
    }


def _examples(prepared: Prepared, removals: Removals, step: str) -> list[str]:
    rows = (row for row, item in removals.items() if _STEP_OF.get(item.rule, "quality") == step)
    return [_example(prepared, removals, row) for row in islice(rows, EXAMPLES)]


def _example(prepared: Prepared, removals: Removals, row: int) -> str:
    """One removed row: its id, why it went, and its question as it was masked."""
    removal = removals[row]
    text = f"{prepared.ids[row]}, {removal.rule.replace('_', ' ')}"
    if removal.kept is not None:
        text += f" of {prepared.ids[removal.kept]} ({removal.similarity:.2f} alike)"
    return f"{text}: {shortened(question_text(prepared.rows.record(row)))}"
