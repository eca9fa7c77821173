"""Numbers over many predictions: means, abstention, retrieval, comparisons."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.evaluation.params import EvaluationParams
from tasks.records.predictions import MODES, SCORE_NAMES, Prediction
from tasks.records.record import Record
from tasks.records.text import normalise
from tasks.serving.retrieval import ScoredPassage
from tasks.stage.errors import DataError
from tasks.statistics.intervals import bootstrap_mean, paired_bootstrap

DEPTHS = (1, 5, 10)
Metrics = dict[str, float | int | str | None]


class MetricModules:
    """The metric modules beside this file, loaded once through `evaluate`."""

    def __init__(self) -> None:
        """Load them; `evaluate` takes seconds to import, so it is imported here alone."""
        import evaluate

        folder = Path(__file__).with_name("metrics")
        paths = [str(folder / f"{name}.py") for name in SCORE_NAMES]
        self._combined = evaluate.combine(
            [evaluate.load(path, keep_in_memory=True) for path in paths]
        )

    def compute(self, outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """The mean of every score.

        Raises:
            DataError: a module gave no number.
        """
        found = self._combined.compute(predictions=list(outputs), references=list(references))
        missing = [name for name in SCORE_NAMES if found.get(name) is None]
        if missing:
            raise DataError(
                f"the metric modules gave no {', '.join(missing)}; every score is needed",
                "run the tests of tasks/evaluation/metrics",
            )
        return {name: float(found[name]) for name in SCORE_NAMES}


def by_system_and_mode(
    predictions: Sequence[Prediction],
) -> dict[str, dict[str, list[Prediction]]]:
    """Predictions by system, as they come, and by mode in its usual order, none of them empty."""
    grouped: dict[str, dict[str, list[Prediction]]] = {row.system: {} for row in predictions}
    for mode in MODES:
        for row in predictions:
            if row.mode == mode:
                grouped[row.system].setdefault(mode, []).append(row)
    return grouped


def abstains(text: str, markers: Sequence[str]) -> bool:
    """Whether an answer begins with one of the markers, apostrophes of any shape alike."""
    answer = normalise(text).replace("\u2019", "'")
    return answer.startswith(tuple(normalise(marker) for marker in markers))


def abstention(rows: Sequence[Prediction], markers: Sequence[str]) -> Metrics:
    """Precision and recall of saying "I don't know" where the reference says so.

    Null with a reason where no answer abstained, or where none should have.
    """
    given = [abstains(row.output, markers) for row in rows]
    wanted = [abstains(row.reference, markers) for row in rows]
    right = sum(one and other for one, other in zip(given, wanted, strict=True))
    found: Metrics = {}
    parts = (("precision", given, "no answer abstained"), ("recall", wanted, "none should abstain"))
    for name, total, reason in parts:
        found[f"abstention_{name}"] = right / sum(total) if any(total) else None
        if not any(total):
            found[f"abstention_{name}_reason"] = reason
    return found


def retrieval(records: Sequence[Record], found: Sequence[Sequence[ScoredPassage]]) -> Metrics:
    """Recall at 1, 5 and 10 and the mean reciprocal rank (at 10) over records with documents.

    A rank is that of the first passage of any gold document. Null with a reason where no record
    names a document or nothing was indexed.
    """
    names = [*(f"recall_at_{depth}" for depth in DEPTHS), "mrr"]
    asked = [(item, ranked) for item, ranked in zip(records, found, strict=True) if item.documents]
    reason = None if asked else "no record names the documents that hold its answer"
    if asked and not any(ranked for _, ranked in asked):
        reason = "the data set has no documents"
    if reason is not None:
        empty: Metrics = {"records": 0}
        for name in names:
            empty |= {name: None, f"{name}_reason": reason}
        return empty
    ranks = [_first_rank(item, ranked) for item, ranked in asked]
    metrics: Metrics = {
        f"recall_at_{depth}": sum(rank is not None and rank <= depth for rank in ranks) / len(ranks)
        for depth in DEPTHS
    }
    metrics["mrr"] = sum(1 / rank for rank in ranks if rank is not None) / len(ranks)
    return metrics | {"records": len(ranks)}


def _first_rank(record: Record, ranked: Sequence[ScoredPassage]) -> int | None:
    for rank, item in enumerate(ranked, start=1):
        if item.passage.document in record.documents:
            return rank
    return None


def primary_mode(wanted: str, asked: Collection[str]) -> str:
    """The mode that comparisons are made in: the one wanted, or closed_book where none asked it."""
    return wanted if wanted in asked else "closed_book"


def compare(
    grouped: Mapping[str, Mapping[str, Sequence[Prediction]]],
    mode: str,
    offered: str,
    params: EvaluationParams,
) -> dict[str, Metrics]:
    """The paired bootstrap interval of the primary metric's difference, by `left-right`.

    `offered` is the one of student and twin that is held against base and adapter.
    """
    comparisons: dict[str, Metrics] = {}
    pairs = (("adapter", "base"), (offered, "base"), (offered, "adapter"), ("student", "twin"))
    for left, right in pairs:
        interval = paired_bootstrap(
            [row.score(params.primary_metric) for row in grouped[left][mode]],
            [row.score(params.primary_metric) for row in grouped[right][mode]],
            confidence=params.confidence,
            resamples=params.resamples,
            seed=params.seed,
        )
        bounds: Metrics = {"difference": interval.value, "low": interval.low, "high": interval.high}
        about: Metrics = {"metric": params.primary_metric, "mode": mode}
        comparisons[f"{left}-{right}"] = about | bounds | {"confidence": params.confidence}
    return comparisons


def intervals(
    grouped: Mapping[str, Mapping[str, Sequence[Prediction]]], params: EvaluationParams
) -> dict[str, dict[str, dict[str, float]]]:
    """The primary metric's value and bootstrap interval by system and mode."""
    return {
        system: {
            mode: asdict(
                bootstrap_mean(
                    [row.score(params.primary_metric) for row in rows],
                    confidence=params.confidence,
                    resamples=params.resamples,
                    seed=params.seed,
                )
            )
            for mode, rows in modes.items()
        }
        for system, modes in grouped.items()
    }


def slices(
    grouped: Mapping[str, Mapping[str, Sequence[Prediction]]], mode: str, metric: str
) -> dict[str, dict[str, Any]]:
    """By system and slice: the mean of a metric in one mode, and how many records it is over."""
    found: dict[str, dict[str, Any]] = {}
    for system, modes in grouped.items():
        scores: dict[str, list[float]] = defaultdict(list)
        for row in modes[mode]:
            scores[row.slice].append(row.score(metric))
        found[system] = {
            name: {metric: sum(values) / len(values), "records": len(values)}
            for name, values in sorted(scores.items())
        }
    return found
