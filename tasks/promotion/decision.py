"""The decision: pure, from what evaluation and curation left in files alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.promotion.gains import beats_base, enough_records, retention
from tasks.promotion.params import PromotionParams
from tasks.promotion.reason import Model, Reason
from tasks.records.predictions import (
    MODES,
    PREDICTIONS_FILE,
    ROLES,
    SCORE_NAMES,
    Prediction,
    read_predictions,
)
from tasks.stage.errors import DataError
from tasks.stage.metrics import METRICS_FILE, read_metrics

_SYSTEM_METRICS = (
    *SCORE_NAMES,
    "length_ratio",
    "abstention_precision",
    "abstention_recall",
    "groundedness",
)
_LEAK_WAYS = ("questions", "few_shot", "documents", "groups")
_RETRIEVAL_METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10")


@dataclass(frozen=True)
class Decision:
    """The verdict on one model: promote when every rule that can refuse passed, else refuse."""

    model: Model
    verdict: Literal["promote", "refuse"]
    reasons: tuple[Reason, ...]


def decide(
    params: PromotionParams,
    evaluation_report: Path,
    curation_report: Path,
    *,
    model: Model,
    reigning: str | None,
) -> Decision:
    """Whether a model is worth promoting, with what every rule found.

    `reigning` names the version that serves now, or is None; the base is what the model must beat.

    Raises:
        DataError: the evidence is not there.
    """
    _check_evidence(evaluation_report, curation_report)
    metrics = read_metrics(evaluation_report)
    predictions = read_predictions(evaluation_report / PREDICTIONS_FILE)
    documents = _has_documents(metrics)
    mode = params.primary_mode if documents else "closed_book"
    offered = _offered(metrics)
    # Who stands for each model: of a student and its twin the one that evaluation offers.
    systems = {"base": "base", "adapter": "adapter", "student": offered}
    scores = {name: _scores(predictions, system, mode, params) for name, system in systems.items()}
    reasons = [
        _retrieval_rules(documents),
        _no_leak(read_metrics(curation_report), params),
        _complete(metrics, tuple(systems.values()), documents, params),
        _same_records(scores),
        enough_records(scores, model, systems[model], mode, params),
        beats_base(scores, model, systems[model], mode, params, reigning),
        _stops(predictions, systems[model], mode, params),
    ]
    if model == "student":
        reasons.append(retention(scores, offered, mode, params))
        reasons += _offer(metrics["offered"])
    verdict: Literal["promote", "refuse"]
    verdict = "promote" if all(item.passed or item.warns for item in reasons) else "refuse"
    return Decision(model, verdict, tuple(reasons))


def _check_evidence(evaluation_report: Path, curation_report: Path) -> None:
    for report, name in (
        (evaluation_report, METRICS_FILE),
        (evaluation_report, PREDICTIONS_FILE),
        (curation_report, METRICS_FILE),
    ):
        if not (report / name).exists():
            raise DataError(
                f"{report} holds no {name}; nothing is decided without evidence",
                "run `nightloom run`, or `dvc checkout` to bring the last report back",
            )


def _offered(metrics: Mapping[str, Any]) -> str:
    """Whether evaluation offers the student or, because distillation did not pay, its twin."""
    found = metrics.get("offered", {}).get("system")
    if found not in ROLES:
        raise DataError(
            f"evaluation's metrics offer {found!r}; expected student or twin",
            "run `nightloom run`, which evaluates again",
        )
    return str(found)


def _has_documents(metrics: Mapping[str, Any]) -> bool:
    """Whether the evaluation had passages to show: any system has a mode that holds some."""
    systems = metrics.get("systems", {})
    measured = metrics.get("retrieval", {}).get("mrr") is not None
    return measured or any(set(modes) - {"closed_book"} for modes in systems.values())


def _retrieval_rules(documents: bool) -> Reason:
    text = (
        "modes with passages were scored, and their rules are on"
        if documents
        else "the data set has no documents: closed_book decides, and retrieval rules are off"
    )
    return Reason("retrieval", True, text, None, None)


def _no_leak(curation: Mapping[str, Any], params: PromotionParams) -> Reason:
    """Nothing of the test split is known to train, to few-shot prompts or to the documents."""
    found = curation.get("leaks", {})
    bound = float(params.max_leaks)
    counts = [found.get(way) for way in _LEAK_WAYS]
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in counts):
        text = "curation's metrics do not tell the leaks of every way; no leak check, no promotion"
        return Reason("no_leak", False, text, None, bound)
    total = sum(counts)
    text = "no test row is known to train, to few-shot prompts or to the documents"
    if total:
        told = ", ".join(f"{way} {count}" for way, count in zip(_LEAK_WAYS, counts, strict=True))
        ids = [
            f"{leak['test']} in {leak['where']}" for leak in curation.get("leak_examples", [])[:3]
        ]
        text = f"the test split leaks: {told}" + (f"; {'; '.join(ids)}" if ids else "")
    return Reason("no_leak", total <= params.max_leaks, text, float(total), bound)


def _complete(
    metrics: Mapping[str, Any],
    systems: tuple[str, ...],
    documents: bool,
    params: PromotionParams,
) -> Reason:
    """Every metric of every system and mode is there and finite, or null where that is allowed."""
    places: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
        f"systems.{system}.{mode}": (
            metrics.get("systems", {}).get(system, {}).get(mode, {}),
            _SYSTEM_METRICS,
        )
        for system in systems
        for mode in (MODES if documents else ("closed_book",))
    }
    if documents:
        places["retrieval"] = (metrics.get("retrieval", {}), _RETRIEVAL_METRICS)
    bad = [
        f"{place}.{name}"
        for place, (found, names) in places.items()
        for name in names
        if not _sound(found, name, params)
    ]
    total = sum(len(names) for _, names in places.values())
    text = f"all {total} metrics are there and finite"
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        text = f"missing, null without leave, or not finite: {', '.join(bad[:3])}{more}"
    return Reason("evidence", not bad, text, float(len(bad)), 0.0)


def _sound(found: Mapping[str, Any], name: str, params: PromotionParams) -> bool:
    value = found.get(name)
    if value is None:
        return name in found and name in params.may_be_null and bool(found.get(f"{name}_reason"))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _scores(
    predictions: list[Prediction], system: str, mode: str, params: PromotionParams
) -> dict[str, float]:
    """The primary metric by record id, of one system in one mode."""
    return {
        row.record: row.score(params.primary_metric)
        for row in predictions
        if row.system == system and row.mode == mode
    }


def _same_records(scores: Mapping[str, Mapping[str, float]]) -> Reason:
    sizes = {system: len(found) for system, found in scores.items()}
    same = all(found.keys() == scores["base"].keys() for found in scores.values())
    finite = all(math.isfinite(score) for found in scores.values() for score in found.values())
    passed = same and finite and sizes["base"] > 0
    text = f"every system was scored on the same {sizes['base']} records"
    if not passed:
        counts = ", ".join(f"{system} {size}" for system, size in sizes.items())
        text = f"systems were not scored on the same records with finite scores: {counts}"
    return Reason("same_records", passed, text, float(sizes["base"]), 1.0)


def _stops(
    predictions: list[Prediction], system: str, mode: str, params: PromotionParams
) -> Reason:
    """The model ends its answers by itself: one that never stops says too much, and costs most."""
    rows = [row for row in predictions if row.system == system and row.mode == mode]
    if not rows:
        text = f"{system} has no answers in mode {mode}, so nothing tells whether they end"
        return Reason("stops", False, text, None, params.max_cut)
    share = sum(row.is_cut for row in rows) / len(rows)
    text = f"{share:.0%} of {system}'s answers in mode {mode} were cut at prompting.max_new_tokens"
    if share > params.max_cut:
        text += (
            ": it does not stop, or the data's answers are longer and the bound should be raised"
        )
    return Reason("stops", share <= params.max_cut, text, share, params.max_cut)


def _offer(offered: Mapping[str, Any]) -> list[Reason]:
    """What evaluation says of its offer: warnings that refuse nothing and are never silent."""
    paid = offered["system"] == "student"
    enough = bool(offered["keeps_enough"])
    text = f"{offered['name']} is the smallest student that keeps enough of the adapter's score"
    if not enough:
        text = (
            f"no student keeps as much as evaluation.student_keeps asks; {offered['name']} is best"
        )
    return [
        Reason("distillation", paid, str(offered["text"]), offered["gain"]["value"], 0.0, True),
        Reason("size", enough, text, None, None, True),
    ]
