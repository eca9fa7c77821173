"""What evaluation leaves: metrics.json, both tables of evidence, the report and its pictures."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.evaluation.label_report import LabelReport
from tasks.evaluation.report import write_report
from tasks.records.predictions import (
    LIKELIHOODS_FILE,
    PREDICTIONS_FILE,
    Likelihood,
    Prediction,
    write_likelihoods,
    write_predictions,
)
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders

LOGGER = logging.getLogger(__name__)

# What metrics.json holds, in the order in which the page shows it; `task` of other than answers,
# `turns` of task chat.
_SECTIONS = (
    "systems", "primary", "intervals", "comparisons", "sizes", "slices", "injections", "gains",
    "abstention_shares", "offered", "offers", "retrieval", "asked", "prompts", "perplexity",
    "forgetting", "records", "test_split", "seconds", "machine",
)  # fmt: skip
_OPTIONAL_SECTIONS = ("task", "turns")


@dataclass(frozen=True)
class Evidence:
    """All that was found; `shown` are the texts of passages by id, `labels` of task classify."""

    metrics: Mapping[str, Any]
    predictions: Sequence[Prediction]
    likelihoods: Sequence[Likelihood]
    shown: Mapping[str, str]
    labels: LabelReport | None


def write_evaluation(folder: Path, found: Evidence) -> None:
    """Write all of it into the report's folder, at once or not at all."""
    with output_folders(folder) as (report,):
        more = [name for name in _OPTIONAL_SECTIONS if name in found.metrics]
        metrics = {name: found.metrics[name] for name in (*_SECTIONS, *more)}
        write_metrics(report, metrics)
        write_predictions(report / PREDICTIONS_FILE, found.predictions)
        write_likelihoods(report / LIKELIHOODS_FILE, found.likelihoods)
        started = time.monotonic()
        write_report(report, metrics, found.predictions, found.shown, found.labels)
        LOGGER.info(
            "report of %d answers written in %.1f s",
            len(found.predictions),
            time.monotonic() - started,
        )
