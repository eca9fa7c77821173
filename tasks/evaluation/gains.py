"""What passages are worth to each system, and whether it abstains where it should."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scipy.stats import binomtest

from tasks.evaluation.abstaining import abstains
from tasks.evaluation.params import EvaluationParams
from tasks.records.predictions import Prediction
from tasks.statistics.intervals import paired_bootstrap

# What retrieval buys, and what it would buy if it never missed.
_MODE_PAIRS = (("retrieved", "closed_book"), ("oracle", "retrieved"))

Grouped = Mapping[str, Mapping[str, Sequence[Prediction]]]


def mode_gains(grouped: Grouped, params: EvaluationParams) -> dict[str, dict[str, Any]]:
    """By system and `mode-mode`: the paired gain of the primary metric, its interval and records.

    Paired over the records that were asked in both modes; a pair that shares none is left out, as
    is a system that was asked in one mode alone.
    """
    found: dict[str, dict[str, Any]] = {}
    for system, modes in grouped.items():
        for left, right in _MODE_PAIRS:
            gain = _gain(modes.get(left, ()), modes.get(right, ()), params)
            if gain is not None:
                found.setdefault(system, {})[f"{left}-{right}"] = gain
    return found


def _gain(
    left: Sequence[Prediction], right: Sequence[Prediction], params: EvaluationParams
) -> dict[str, Any] | None:
    scores = [
        {row.record: row.score(params.primary_metric) for row in rows} for rows in (left, right)
    ]
    shared = [record for record in scores[0] if record in scores[1]]
    if not shared:
        return None
    interval = paired_bootstrap(
        *([found[record] for record in shared] for found in scores),
        confidence=params.confidence,
        resamples=params.resamples,
        seed=params.seed,
    )
    return asdict(interval) | {"records": len(shared)}


def abstention_shares(grouped: Grouped, params: EvaluationParams) -> dict[str, Any]:
    """By system, mode and kind of record: how often the system abstained, with Wilson's interval.

    The kinds are `unanswerable`, where the reference abstains and 1 is best, and `answerable`,
    where 0 is; a kind without records is left out.
    """
    return {
        system: {mode: _shares(rows, params) for mode, rows in modes.items()}
        for system, modes in grouped.items()
    }


def _shares(rows: Sequence[Prediction], params: EvaluationParams) -> dict[str, Any]:
    given: dict[str, list[bool]] = {"unanswerable": [], "answerable": []}
    for row in rows:
        should = abstains(row.reference, params.abstentions)
        kind = "unanswerable" if should else "answerable"
        given[kind].append(abstains(row.output, params.abstentions))
    found = {}
    for kind, answers in given.items():
        if answers:
            test = binomtest(sum(answers), len(answers))
            bounds = test.proportion_ci(params.confidence, method="wilson")
            share = {"value": test.statistic, "low": bounds.low, "high": bounds.high}
            found[kind] = {name: float(value) for name, value in share.items()}
            found[kind]["records"] = len(answers)
    return found
