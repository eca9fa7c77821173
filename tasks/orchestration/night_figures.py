"""The few numbers by which people compare nights, read from a night's reports."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.records.schema import FEEDBACK_SPLIT, SPLITS
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.task_types.answer import ANSWER
from tasks.task_types.table import evaluated_task

# Of the systems that evaluation asks, in the order in which people read them.
SYSTEMS = ("base", "adapter", "student", "control")

_RECALL = "recall_at_5"
_EXAMPLES = ("records", "examples")  # of a split in tokenization's report


class Score(BaseModel):
    """A score and the bounds of its interval, null where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Return it as people read it."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class RowStep(BaseModel):
    """A step that rows come to, how many come, and how many it leaves."""

    step: str
    rows: int
    left: int

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"{self.step} {self.rows:,} in, {self.left:,} left"


class NightFigures(BaseModel):
    """What the reports of one night come to.

    `scores` are by system and mode, in the metric that decides; `mode` is the one that decides.
    `feedback` is how many questions of held-out feedback were asked, in a mode of its own.
    `student` is the system that is offered as the student: its control may be as good.
    `rows` are the records that validation read, `quarantined` those that it refused. `numbers` are
    those of MLflow's page, `verdicts` by model. What a report does not say is missing or null.
    """

    metric: str = "token_f1"
    mode: str = ""
    records: int | None = None
    feedback: int | None = None
    scores: dict[str, dict[str, Score]] = {}
    student: str = "student"
    rows: int | None = None
    quarantined: int | None = None
    numbers: dict[str, float] = {}
    verdicts: dict[str, str] = {}

    def score(self, system: str) -> Score | None:
        """Return a system's score in the mode that decides, None if it was not asked so.

        `student` is the one that is offered.
        """
        name = self.student if system == "student" else system
        return self.scores.get(name, {}).get(self.mode)


def read_figures(evaluation: Path, validation: Path) -> NightFigures:
    """Return the figures of a night from its two reports; either may be missing, or be older."""
    scored = _metrics(evaluation)
    records = _metrics(validation).get("records", {})
    primary = scored.get("primary", {})
    student = (scored.get("offered") or {}).get("system", "student")
    figures = NightFigures(
        metric=primary.get("metric", "token_f1"),
        mode=primary.get("mode", ""),
        records=scored.get("records"),
        feedback=scored.get("asked", {}).get(FEEDBACK_SPLIT),
        scores=_scores(scored),
        student=student,
        rows=records.get("current"),
        quarantined=records.get("quarantined"),
    )
    numbers = _numbers(scored, figures, student)
    told = {name: float(value) for name, value in numbers.items() if value is not None}
    finite = {name: value for name, value in told.items() if math.isfinite(value)}
    return figures.model_copy(update={"numbers": finite})


def read_row_steps(reports: Mapping[str, Path]) -> list[RowStep]:
    """Return what each step left of the rows, in order, by the reports of some stages, by stage.

    A stage that is not among them, or whose report is older than these counts, says nothing.
    """
    found = {stage: _metrics(report) for stage, report in reports.items()}
    steps = []
    if records := found.get("validation", {}).get("records"):
        steps.append(RowStep(step="validation", rows=records["current"], left=records["accepted"]))
    for name, counts in found.get("curation", {}).get("steps", {}).items():
        steps.append(RowStep(step=name, rows=counts["rows"], left=counts["left"]))
    splits = [found.get("tokenization", {}).get(split) for split in SPLITS]
    if all(splits):
        rows, left = (sum(split[key] for split in splits if split) for key in _EXAMPLES)
        steps.append(RowStep(step="tokenization", rows=rows, left=left))
    return steps


def _metrics(report: Path) -> dict[str, Any]:
    return read_metrics(report) if (report / METRICS_FILE).exists() else {}


def _scores(scored: Mapping[str, Any]) -> dict[str, dict[str, Score]]:
    """Return each system's intervals by mode; of a report without any, the bare scores."""
    metric = scored.get("primary", {}).get("metric", "token_f1")
    found: dict[str, dict[str, Score]] = {}
    for system, modes in scored.get("systems", {}).items():
        for mode, values in modes.items():
            interval = scored.get("intervals", {}).get(system, {}).get(mode)
            value = values.get(metric)
            own = found.setdefault(system, {})
            if interval is not None:
                own[mode] = Score.model_validate(interval)
            elif value is not None:
                own[mode] = Score(value=value)
    return found


def _numbers(
    scored: Mapping[str, Any], figures: NightFigures, student: str
) -> dict[str, float | None]:
    """Return at most 14 numbers under names that stay; `minutes` is the 15th."""
    found: dict[str, float | None] = {}
    task = evaluated_task(scored)
    metric, also = task.shown
    short = "f1" if task == ANSWER else metric
    for name in SYSTEMS:
        system = student if name == "student" else name
        values = scored.get("systems", {}).get(system, {}).get(figures.mode, {})
        found[f"{name}.{short}"] = values.get(metric)
        if name in ("adapter", "student"):
            found[f"{name}.{also}"] = values.get(also)
            likely = (scored.get("perplexity") or {}).get(system) or {}
            found[f"{name}.nats"] = _nats(likely.get("perplexity"))
    corrected = scored.get("systems", {}).get("adapter", {}).get(FEEDBACK_SPLIT, {})
    found[f"feedback.{short}"] = corrected.get(metric)
    retention = ((scored.get("offered") or {}).get("retention") or {}).get("value")
    return found | {
        _RECALL: (scored.get("retrieval") or {}).get(_RECALL),
        "retention": retention,
        "forgetting": (scored.get("forgetting") or {}).get("perplexity_ratio"),
        "rows": figures.rows,
        "quarantined": figures.quarantined,
    }


def _nats(perplexity: float | None) -> float | None:
    """Return what a perplexity is in nats a token."""
    return None if perplexity is None else math.log(perplexity)
