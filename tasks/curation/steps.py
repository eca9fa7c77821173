"""What each step of curation takes away, and the bound above which it takes too much."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.curation.params import CurationParams
from tasks.curation.preparation import Prepared
from tasks.curation.questions import question_text
from tasks.curation.selection import Removals
from tasks.stage.errors import GateError, share_error, shown_text

_EXAMPLES = 3
_DUPLICATES = ("exact_duplicate", "near_duplicate")
_ASKS_FEEDBACK = "asks_feedback_question"
_LEAKS = ("like_test", "like_feedback", "like_validation", "asks_test_question", _ASKS_FEEDBACK)
_HOLDS = "holds_"


@dataclass(frozen=True)
class Step:
    """A step, how many rows came to it, and those that it took, in order."""

    name: str
    rows: int
    taken: list[int]

    @property
    def left(self) -> int:
        """Return how many rows it left."""
        return self.rows - len(self.taken)

    @property
    def share(self) -> float:
        """Return the share of its rows that it took."""
        return len(self.taken) / self.rows if self.rows else 0.0

    @property
    def told(self) -> str:
        """Return the step in a line."""
        return f"{self.name}: {self.rows} rows in, {len(self.taken)} taken, {self.left} left"


def find_steps(prepared: Prepared, removals: Removals) -> list[Step]:
    """Return the steps in their order; what is no duplicate and no leak broke a rule on quality."""
    by_step: dict[str, list[int]] = {"quality": [], "duplicates": [], "leaks": []}
    for row in sorted(removals):
        rule = removals[row].rule
        step = "duplicates" if rule in _DUPLICATES else "leaks" if rule in _LEAKS else "quality"
        by_step[step].append(row)
    steps, rows = [], len(prepared.ids)
    for name, taken in by_step.items():
        steps.append(Step(name, rows, taken))
        rows -= len(taken)
    return steps


def steps_error(
    steps: list[Step],
    prepared: Prepared,
    removals: Removals,
    params: CurationParams,
    report: Path,
) -> GateError | None:
    """Return why the first step that took too much stops the night, or None.

    `report` lists the rows.
    """
    bounds = params.max_removed_share.model_dump()
    step = next((step for step in steps if step.share > bounds[step.name]), None)
    if step is None:
        return None
    rules = Counter(removals[row].rule for row in step.taken).most_common()
    return share_error(
        f"{step.name}: {len(step.taken)} of {step.rows} rows would be left out ({step.share:.1%})",
        share=step.share,
        most=bounds[step.name],
        setting=f"curation.max_removed_share.{step.name}",
        why="a night that learns from what little is left, because a rule misreads the data or the "
        "data are not what they seem, looks like any other",
        by_cause="By rule: "
        + ", ".join(f"{rule}: {count}" for rule, count in rules)
        + ". By step: "
        + "; ".join(one.told for one in steps),
        examples=[_shown(prepared, removals, row) for row in step.taken[:_EXAMPLES]],
        mending=f"look at the rows in {report}; {_mending(step.name, rules[0][0])}",
    )


def _mending(step: str, rule: str) -> str:
    """Return what mends the commonest cause: the param that is behind a rule."""
    if rule.startswith(_HOLDS):
        kind = rule.removeprefix(_HOLDS)
        return f"where rows can stay without it, `--set curation.personal_data.{kind}=mask`"
    if step == "quality":
        return f"where the rule is too strict, change curation.quality.{rule}"
    if step == "duplicates":
        return "where they differ in what matters, raise curation.duplicate_similarity"
    if rule == "asks_test_question":
        return (
            "where the same questions come up again and again, give their rows one `group`, which "
            "a split keeps together"
        )
    if rule == _ASKS_FEEDBACK:
        return "where people ask the same again and again, that is no fault of the data"
    return "where they differ in what matters, raise curation.leak_similarity"


def _shown(prepared: Prepared, removals: Removals, row: int) -> str:
    """Return a removed row as a person knows it again, with the one that stays; both masked."""
    removal = removals[row]
    if removal.rule.startswith(_HOLDS):  # never shown, since it holds what nobody may read
        return f"{prepared.ids[row]} ({removal.rule})"
    text = f"{prepared.ids[row]} ({removal.rule}) {_text(prepared, row)}"
    if removal.kept is None:
        return text
    return (
        f"{text}\n    is {removal.similarity:.2f} like {prepared.ids[removal.kept]} "
        f"{_text(prepared, removal.kept)}"
    )


def _text(prepared: Prepared, row: int) -> str:
    record = prepared.rows.record(row)
    return f"{shown_text(question_text(record))} -> {shown_text(record.answer)}"
