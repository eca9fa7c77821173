"""Score base, adapter and student, closed book, with retrieved passages and with the gold ones."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.evaluation.aggregates import (
    DEPTHS,
    MetricModules,
    Metrics,
    abstention,
    by_system_and_mode,
    compare,
    intervals,
    primary_mode,
    retrieval,
    slices,
)
from tasks.evaluation.answers import Asking, ModelFiles, SystemAnswers, ask_systems
from tasks.evaluation.machine import describe_machine
from tasks.evaluation.params import EvaluationParams, Params
from tasks.evaluation.questions import choose_records, pose
from tasks.evaluation.report import plot_scores, write_report
from tasks.lm.embedding import Embedder
from tasks.lm.models import prepare_device
from tasks.records.files import read_records
from tasks.records.predictions import PREDICTIONS_FILE, Prediction, write_predictions
from tasks.records.prompt_files import PROMPT
from tasks.records.record import Record
from tasks.serving.retrieval import Index, ScoredPassage
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified


@dataclass(frozen=True)
class Paths:
    """What evaluation reads and writes."""

    curated: Path
    base: Path
    embedder: Path
    model_store: Path
    adapter: Path
    student: Path
    index: Path
    scratch: Path
    evaluation_report: Path = output()


@dataclass(frozen=True)
class Retrieved:
    """The passages found for each record, at the deepest depth measured."""

    index: Index
    found: tuple[list[ScoredPassage], ...]
    seconds: float


def run(params: Params, paths: Paths) -> None:
    """Write metrics.json, predictions.parquet, report.md and scores.png."""
    device = prepare_device(params.compute)
    chosen = params.evaluation
    test = read_records(verified(paths.curated) / "test.jsonl")
    records = choose_records(test, chosen.records, chosen.salt)
    retrieved = _retrieve(records, params, paths, device)
    questions = pose(records, retrieved.found, retrieved.index, passages=params.prompting.passages)
    asking = Asking(
        verified(paths.adapter) / PROMPT,
        params.prompting.max_new_tokens,
        params.compute.generation_batch,
        device,
    )
    models = ModelFiles(
        paths.base, paths.model_store, paths.adapter, paths.student, params.models.numeric_form
    )
    curves = Curves(paths.scratch)
    answers = list(ask_systems(models, questions, asking, curves.progress))
    predictions = [row for system in answers for row in system.predictions]
    metrics = _metrics(predictions, chosen) | {
        "retrieval": retrieval(records, retrieved.found),
        "records": len(records),
        "seconds": _seconds(answers, retrieved),
        "machine": describe_machine(device),
    }
    _write(paths.evaluation_report, metrics, predictions, chosen)


def _retrieve(
    records: Sequence[Record], params: Params, paths: Paths, device: torch.device
) -> Retrieved:
    """The passages for every record; the embedder leaves memory before any system is loaded."""
    started = time.monotonic()
    index = Index.load(verified(paths.index))
    embedder = Embedder.load(paths.embedder, paths.model_store, device=device)
    depth = max(*DEPTHS, params.prompting.passages)
    found = index.search([record.question for record in records], depth, embedder)
    return Retrieved(index, tuple(found), time.monotonic() - started)


def _metrics(predictions: Sequence[Prediction], params: EvaluationParams) -> dict[str, Any]:
    modules = MetricModules()
    grouped = by_system_and_mode(predictions)
    mode = primary_mode(params.primary_mode, grouped)
    systems = {
        system: {name: _scores(modules, rows, params) for name, rows in modes.items()}
        for system, modes in grouped.items()
    }
    return {
        "systems": systems,
        "primary": {"mode": mode, "metric": params.primary_metric},
        "comparisons": compare(grouped, mode, params),
        "slices": slices(grouped, mode, params.primary_metric),
    }


def _scores(
    modules: MetricModules, rows: Sequence[Prediction], params: EvaluationParams
) -> Metrics:
    means = modules.compute([row.output for row in rows], [row.reference for row in rows])
    return {**means, **abstention(rows, params.abstentions)}


def _seconds(answers: Sequence[SystemAnswers], retrieved: Retrieved) -> dict[str, float]:
    return {"retrieval": retrieved.seconds} | {item.system: item.seconds for item in answers}


def _write(
    folder: Path,
    metrics: dict[str, Any],
    predictions: Sequence[Prediction],
    params: EvaluationParams,
) -> None:
    bounds = intervals(by_system_and_mode(predictions), params)
    with output_folders(folder) as (report,):
        write_metrics(report, metrics)
        write_predictions(report / PREDICTIONS_FILE, predictions)
        write_report(report, metrics)
        plot_scores(
            report / "scores.png",
            bounds,
            metric=params.primary_metric,
            confidence=params.confidence,
        )


if __name__ == "__main__":
    sys.exit(run_stage("evaluation", Params, Paths, run))
