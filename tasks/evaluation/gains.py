"""What passages are worth to each system, and whether it abstains where it should."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from tasks.evaluation.abstaining import abstains
from tasks.evaluation.comparisons import inference
from tasks.evaluation.params import EvaluationParams
from tasks.records.predictions import Prediction
from tasks.statistics.comparison import paired_differences

# What retrieval buys, and what it would buy if it never missed.
_MODE_PAIRS = (("retrieved", "closed_book"), ("oracle", "retrieved"))

Grouped = Mapping[str, Mapping[str, Sequence[Prediction]]]


def mode_gains(grouped: Grouped, params: EvaluationParams) -> dict[str, dict[str, Any]]:
    """By system and `mode-mode`: what the primary metric gains, paired by record, and its tests.

    Paired over the records that were asked in both modes; a pair that shares none is left out, as
    is a system that was asked in one mode alone. All gains are one family.
    """
    scores = {
        (system, mode): {row.record: row.score(params.primary_metric) for row in rows}
        for system, modes in grouped.items()
        for mode, rows in modes.items()
    }
    gains = paired_differences(
        {
            (system, f"{left}-{right}"): (scores[system, left], scores[system, right])
            for system, modes in grouped.items()
            for left, right in _MODE_PAIRS
            if {left, right} <= modes.keys()
        },
        inference(params),
    )
    found: dict[str, dict[str, Any]] = {}
    for (system, pair), gain in gains.items():
        found.setdefault(system, {})[pair] = gain.numbers()
    return found


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
