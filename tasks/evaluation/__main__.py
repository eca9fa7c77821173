"""Score base, adapter and students, closed book, with retrieved passages and the gold ones."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from tasks.evaluation.answers import Asking, ModelFiles, System
from tasks.evaluation.interview import Interviews, interview
from tasks.evaluation.machine import describe_machine
from tasks.evaluation.params import EvaluationParams, Params
from tasks.evaluation.questions import choose_records, pose
from tasks.evaluation.report import plot_scores, plot_tradeoff, write_report
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
    students: Path
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
    """Write metrics.json, predictions.parquet, report.md and two plots."""
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
        paths.base,
        paths.model_store,
        paths.adapter,
        verified(paths.students),
        params.models.numeric_form,
    )
    curves = Curves(paths.scratch)
    asked = interview(models, questions, asking, chosen, curves.progress)
    predictions = [row for system in asked.systems for row in system.predictions]
    metrics = _metrics(predictions, asked, chosen) | {
        "offered": asked.offers[0].numbers(),
        "offers": {offer.name: offer.numbers() for offer in asked.offers},
        "retrieval": retrieval(records, retrieved.found),
        "records": len(records),
        "seconds": _seconds(asked.systems, retrieved),
        "machine": describe_machine(device),
    }
    with output_folders(paths.evaluation_report) as (report,):
        write_metrics(report, metrics)
        write_predictions(report / PREDICTIONS_FILE, predictions)
        write_report(report, metrics)
        plot_scores(report / "scores.png", metrics)
        plot_tradeoff(report / "tradeoff.png", metrics)


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


def _metrics(
    predictions: Sequence[Prediction], asked: Interviews, params: EvaluationParams
) -> dict[str, Any]:
    modules = MetricModules()
    grouped = by_system_and_mode(predictions)
    mode = primary_mode(params.primary_mode, {row.mode for row in predictions})
    systems = {
        system: {name: _scores(modules, rows, params) for name, rows in modes.items()}
        for system, modes in grouped.items()
    }
    return {
        "systems": systems,
        "primary": {
            "mode": mode,
            "metric": params.primary_metric,
            "confidence": params.confidence,
        },
        "intervals": intervals(grouped, params),
        "comparisons": compare(grouped, mode, asked.offers[0].system, params),
        "sizes": {
            system.name: _size(system, grouped[system.name][mode]) for system in asked.systems
        },
        "slices": slices(grouped, mode, params.primary_metric),
    }


def _scores(
    modules: MetricModules, rows: Sequence[Prediction], params: EvaluationParams
) -> Metrics:
    means = modules.compute([row.output for row in rows], [row.reference for row in rows])
    return {**means, **abstention(rows, params.abstentions)}


def _size(system: System, rows: Sequence[Prediction]) -> dict[str, float]:
    """What a system takes: weights in memory, and milliseconds to a row's last token in a batch."""
    p50, p95 = np.quantile([row.latency_ms for row in rows], [0.5, 0.95])
    return {
        "parameters": system.parameters,
        "megabytes": system.megabytes,
        "latency_ms_p50": float(p50),
        "latency_ms_p95": float(p95),
    }


def _seconds(systems: Sequence[System], retrieved: Retrieved) -> dict[str, float]:
    return {"retrieval": retrieved.seconds} | {item.name: item.seconds for item in systems}


if __name__ == "__main__":
    sys.exit(run_stage("evaluation", Params, Paths, run))
