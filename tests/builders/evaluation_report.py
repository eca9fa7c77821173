"""Predictions and metrics of an evaluation that never ran, whole enough to be reported."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from tasks.evaluation.aggregates import (
    Abstains,
    ShareInterval,
    abstention_shares,
    by_system_and_mode,
)
from tasks.evaluation.comparisons import ComparisonSettings, compare_all
from tasks.evaluation.params import EvaluationParams
from tasks.records.predictions import SCORE_NAMES, Prediction, write_predictions
from tasks.scoring.answer_scores import abstains
from tasks.stage.metrics import write_metrics
from tasks.stage.params import read_yaml
from tasks.statistics.bootstrap import wilson
from tasks.statistics.significance import Inference

_EMPTY: dict[str, Any] = {"str": "", "float": 0.5, "int": 0, "bool": False}


def answered(score: float = 0.5, **given: Any) -> Prediction:
    """A prediction with what is given; every score is `score`, what may be None is."""
    values: dict[str, Any] = {
        item.name: () if "tuple" in str(item.type) else _EMPTY.get(_name(item.type))
        for item in fields(Prediction)
    }
    return Prediction(**values | dict.fromkeys(SCORE_NAMES, score) | given)


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", "")


def params() -> EvaluationParams:
    """The repository's params with few resamples."""
    values = read_yaml(Path("params/evaluation.yaml"))
    return EvaluationParams.model_validate(values | {"resamples": 200})


def inference() -> Inference:
    """How differences are tested with those params."""
    given = params()
    return Inference(given.confidence, given.power, given.resamples, given.seed)


def says_no() -> Abstains:
    """Whether a text abstains by those params."""
    return partial(abstains, markers=params().abstentions)


def share_interval() -> ShareInterval:
    """Shares with their intervals by those params."""
    return partial(wilson, confidence=params().confidence)


def metrics_of(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The metrics of predictions of base, adapter, student and control that share a mode."""
    grouped = by_system_and_mode(predictions)
    whole = {name: 0.5 for name in (*SCORE_NAMES, "abstention_recall")}
    size = {"parameters": 2_000_000, "megabytes": 8.0, "peak_megabytes": 900.0}
    speed = {"throughput_tokens_per_second": 480.0}
    interval = {"value": 0.9, "low": 0.8, "high": 1.0}
    settings = ComparisonSettings("token_f1", "retrieved", "student")
    return {
        "systems": {system: dict.fromkeys(modes, whole) for system, modes in grouped.items()},
        "primary": {"mode": "retrieved", "metric": "token_f1", "confidence": 0.95},
        "sizes": {system: size | speed for system in grouped},
        **compare_all(grouped, settings, [], inference()).numbers(),
        "abstention_shares": abstention_shares(grouped, says_no(), share_interval()),
        "offered": {
            "system": "student", "name": "24", "text": "it paid", "keeps_enough": True,
            "offered_retention": interval,
        },
        "retrieval": {"mrr": 0.9, "recall_at_1": 0.8, "recall_at_5": 1.0, "recall_at_10": 1.0,
                      "records": 4},
        "records": 4,
        "machine": {"processor": "p", "cores": 2, "device": "no GPU", "python": "3.11"},
    }  # fmt: skip


def write_evaluation(folder: Path, predictions: Sequence[Prediction]) -> Path:
    """A folder with the evidence of an evaluation."""
    folder.mkdir(parents=True)
    write_metrics(folder, metrics_of(predictions))
    write_predictions(folder / "predictions.parquet", predictions)
    return folder
