"""Systems and modes compared in pairs, and what the differences are worth."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tasks.evaluation.params import EvaluationParams
from tasks.records.predictions import Prediction
from tasks.scoring.answer_scores import Metrics, abstains, null
from tasks.stage.errors import DataError
from tasks.statistics.bootstrap import bootstrap_mean, bootstrap_ratios
from tasks.statistics.significance import (
    Inference,
    PairedComparison,
    compare_systems,
    paired_differences,
)

Grouped = Mapping[str, Mapping[str, Sequence[Prediction]]]


def primary_mode(wanted: str, asked: Collection[str]) -> str:
    """The mode that comparisons are made in: the one wanted, or closed_book where none asked it."""
    return wanted if wanted in asked else "closed_book"


def compare(
    grouped: Grouped, mode: str, offered: str, params: EvaluationParams
) -> dict[str, dict[str, Any]]:
    """The comparisons that tell what each step of a night bought, by `left-right`.

    `offered` is the one of student and twin that is held against base and adapter.
    """
    pairs = (("adapter", "base"), (offered, "base"), (offered, "adapter"), ("student", "twin"))
    return compare_pairs({name: modes[mode] for name, modes in grouped.items()}, pairs, params)


def compare_external(
    grouped: Grouped, mode: str, guests: Sequence[str], params: EvaluationParams
) -> dict[str, dict[str, Any]]:
    """The adapter against each system by path, and each of these against the base.

    They are a family of their own, so that asking guests changes nothing that is said of the night.
    """
    if not guests:
        return {}
    pairs = [pair for guest in guests for pair in (("adapter", guest), (guest, "base"))]
    rows = {name: modes[mode] for name, modes in grouped.items()}
    return compare_pairs(rows, pairs, params, family="comparisons with systems by path")


def compare_pairs(
    rows: Mapping[str, Sequence[Prediction]],
    pairs: Sequence[tuple[str, str]],
    params: EvaluationParams,
    *,
    family: str = "comparisons",
) -> dict[str, dict[str, Any]]:
    """Any pairs of systems, by `left-right`, on the primary metric and overall and by slice.

    `rows` are each system's, of one mode. The pairs that are given are the family over which their
    p-values are corrected (`p_value_holm`), called `family`; the slices of a pair are another.

    Raises:
        DataError: a system has two rows for a record, or systems were asked other records.
    """
    names = dict.fromkeys(name for pair in pairs for name in pair)
    scores = {name: _by_record(rows[name], params.primary_metric) for name in names}
    first = rows[next(iter(names))]
    found = compare_systems(
        scores, pairs, {row.record: row.slice for row in first}, inference(params)
    )
    family = f"the {len(pairs)} {family} over all records"
    about = {
        "metric": params.primary_metric,
        "mode": first[0].mode,
        "confidence": params.confidence,
        "power": params.power,
    }
    return {
        f"{left}-{right}": about | _numbers(comparison, family)
        for (left, right), comparison in found.items()
    }


def inference(params: EvaluationParams) -> Inference:
    """How differences are tested."""
    return Inference(params.confidence, params.power, params.resamples, params.seed)


def _by_record(rows: Sequence[Prediction], metric: str) -> dict[str, float]:
    scores = {row.record: row.score(metric) for row in rows}
    if len(scores) < len(rows):
        raise DataError(
            f"{rows[0].system} has {len(rows)} answers to {len(scores)} records; expected one "
            "each, or nobody knows which is compared",
            "compare the rows of one mode at a time, and look for ids that two records share",
        )
    return scores


def _numbers(comparison: PairedComparison, family: str) -> dict[str, Any]:
    slices = comparison.slices
    return {
        **comparison.whole.numbers(),
        "family": family,
        "slices_family": f"the {len(slices)} slices of this comparison",
        "slices": {name: found.numbers() for name, found in slices.items()},
    }


def intervals(grouped: Grouped, params: EvaluationParams) -> dict[str, dict[str, Any]]:
    """The primary metric's value and bootstrap interval by system and mode."""
    found: dict[str, dict[str, Any]] = {system: {} for system in grouped}
    columns: dict[int, list[tuple[str, str, list[float]]]] = defaultdict(list)
    for system, modes in grouped.items():
        for mode, rows in modes.items():
            scores = [row.score(params.primary_metric) for row in rows]
            columns[len(scores)].append((system, mode, scores))
    for same_size in columns.values():
        parts = np.array([scores for *_, scores in same_size]).T
        drawn = bootstrap_ratios(
            parts,
            np.ones_like(parts),
            confidence=params.confidence,
            resamples=params.resamples,
            seed=params.seed,
        )
        for (system, mode, _), interval in zip(same_size, drawn, strict=True):
            found[system][mode] = asdict(interval)
    return found


def slices(grouped: Grouped, mode: str, params: EvaluationParams) -> dict[str, dict[str, Any]]:
    """By system and slice: the primary metric in one mode, its interval, and over how many records.

    The bounds are null, with a reason, where a slice has one record, which shows no variance.
    """
    found: dict[str, dict[str, Any]] = {}
    for system, modes in grouped.items():
        scores: dict[str, list[float]] = defaultdict(list)
        for row in modes[mode]:
            scores[row.slice].append(row.score(params.primary_metric))
        found[system] = {name: _slice(values, params) for name, values in sorted(scores.items())}
    return found


def _slice(values: Sequence[float], params: EvaluationParams) -> Metrics:
    drawn = bootstrap_mean(
        values, confidence=params.confidence, resamples=params.resamples, seed=params.seed
    )
    mean = sum(values) / len(values)
    found: Metrics = {params.primary_metric: mean, "records": len(values)}
    if len(values) > 1:
        return found | {"low": drawn.low, "high": drawn.high}
    for bound in ("low", "high"):
        found |= null(bound, "one record shows no variance")
    return found


# What retrieval buys, and what it would buy if it never missed.
_MODE_PAIRS = (("retrieved", "closed_book"), ("oracle", "retrieved"))


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
        system: {mode: _abstention_share(rows, params) for mode, rows in modes.items()}
        for system, modes in grouped.items()
    }


def _abstention_share(rows: Sequence[Prediction], params: EvaluationParams) -> dict[str, Any]:
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
