"""Scores by turn of a conversation: how well early and late turns are answered."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluation.evaluator import RunRules
from tasks.evaluation.grids import Grid, interval, joined, number, shown_metric, shown_mode
from tasks.records.predictions import Prediction, record_scores
from tasks.scoring.answer_scores import Metrics, null
from tasks.statistics.bootstrap import bootstrap_mean
from tasks.statistics.significance import Inference

# From this turn on they are taken together: few conversations are so long.
_LATE = 10
_LATER = f"{_LATE} and later"
_TOLD = 4


def scores_by_turn(
    grouped: Mapping[str, Mapping[str, Sequence[Prediction]]], rules: RunRules, inference: Inference
) -> dict[str, dict[str, Metrics]]:
    """Return the primary metric by system and turn, in the primary mode, with its interval.

    A conversation has one score in each: of the late turns, which are taken together, the mean.
    """
    return {
        system: {
            turn: _measured(rows, rules.metric, inference)
            for turn, rows in _by_turn(modes[rules.mode]).items()
        }
        for system, modes in grouped.items()
    }


def _by_turn(rows: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    found: dict[str, list[Prediction]] = {}
    for row in sorted(rows, key=lambda row: row.turn or 0):
        late = row.turn is not None and row.turn >= _LATE
        found.setdefault(_LATER if late else str(row.turn), []).append(row)
    return found


def _measured(rows: Sequence[Prediction], metric: str, inference: Inference) -> Metrics:
    values = list(record_scores(rows, metric).values())
    found: Metrics = {metric: sum(values) / len(values), "records": len(values)}
    if len(values) == 1:
        for bound in ("low", "high"):
            found |= null(bound, "one conversation shows no variance")
        return found
    drawn = bootstrap_mean(
        values,
        confidence=inference.confidence,
        resamples=inference.resamples,
        seed=inference.seed,
    )
    return found | {"low": drawn.low, "high": drawn.high}


def turn_grid(metrics: Mapping[str, Any]) -> Grid:
    """Return the primary metric of each system by turn, and how many conversations have it."""
    primary, found = metrics["primary"], metrics["turns"]
    metric = primary["metric"]
    turns = list(dict.fromkeys(turn for row in found.values() for turn in row))
    rows = [
        (
            turn,
            str(next(row[turn]["records"] for row in found.values() if turn in row)),
            *(_cell(row.get(turn), metric) for row in found.values()),
        )
        for turn in turns
    ]
    heading = f"{shown_metric(metric)} by turn, {shown_mode(primary['mode'])}"
    return Grid("By turn", (heading, "conversations", *found), tuple(rows))


def _cell(found: Mapping[str, Any] | None, metric: str) -> str:
    if found is None:
        return number(None)
    if found.get("low") is None:
        return number(found[metric])
    return interval({**found, "value": found[metric]})


def turns_in_words(metrics: Mapping[str, Any]) -> str:
    """Return how the adapter's early turns compare with its late ones, and what is counted."""
    metric, found = metrics["primary"]["metric"], metrics["turns"]["adapter"]
    told = [
        f"{_cell(row, metric)} in turn {turn} ({row['records']} conversations)"
        for turn, row in list(found.items())[:_TOLD]
    ]
    return (
        f"The adapter's {shown_metric(metric)} is {joined(told)}, each turn asked with the "
        "reference turns before it. Later turns are of fewer conversations, so they are not the "
        "same. A conversation counts once, by the mean of its turns, in every score, interval and "
        "comparison."
    )
