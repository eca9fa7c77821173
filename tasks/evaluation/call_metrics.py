"""What is told of many turns that may call tools, in numbers and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluation.aggregates import outcome_metrics
from tasks.records.predictions import Prediction
from tasks.scoring.answer_scores import Metrics, mean_of, null

_NO_CALLS = "no reference calls a tool"
_NO_WORDS = "every reference calls a tool"


def call_metrics(rows: Sequence[Prediction]) -> Metrics:
    """Return what turns say beside the score that decides.

    `missed_calls` is the share of the references that call, to which no call was tried;
    `needless_calls` the share of those in words, to which one was. The others are shares of the
    calls that were tried: no JSON with a name and arguments, of no tool that is offered, and both
    together. All are null with a reason where there is nothing to take a share of.
    """
    calling = [row for row in rows if row.call_match is not None]
    in_words = [row for row in rows if row.call_match is None]
    tried = sum(row.calls or 0 for row in rows)
    broken, unoffered = (
        sum(getattr(row, name) or 0 for row in rows) for name in ("broken_calls", "unoffered_calls")
    )
    return {
        **mean_of("call_match", [row.call_match for row in rows], _NO_CALLS),
        **mean_of("name_match", [row.name_match for row in rows], _NO_CALLS),
        **mean_of("words_f1", [row.words_f1 for row in rows], _NO_WORDS),
        **_share("missed_calls", sum(not row.calls for row in calling), len(calling), _NO_CALLS),
        **_share(
            "needless_calls", sum(bool(row.calls) for row in in_words), len(in_words), _NO_WORDS
        ),
        **_of_tried("broken_call_share", broken, tried),
        **_of_tried("unoffered_call_share", unoffered, tried),
        **_of_tried("invalid_call_share", broken + unoffered, tried),
        **outcome_metrics(rows),
    }


def _share(name: str, count: int, of: int, reason: str) -> Metrics:
    return {name: count / of} if of else null(name, reason)


def _of_tried(name: str, count: int, tried: int) -> Metrics:
    return _share(name, count, tried, "no call was tried")


def calls_in_words(metrics: Mapping[str, Any]) -> str:
    """Return how each system calls: how often rightly, and what is wrong with the other calls."""
    mode = metrics["primary"]["mode"]
    rows = {system: modes[mode] for system, modes in metrics["systems"].items() if mode in modes}
    first = next(iter(rows.values()))
    asked = (
        f"{first['call_match_records']} records ask for calls and {first['words_f1_records']} for "
        "words"
    )
    told = "; ".join(f"the {system} {_in_words(row)}" for system, row in rows.items())
    return f"{asked}. By system: {told}."


def _in_words(row: Mapping[str, Any]) -> str:
    parts = []
    if row["call_match"] is not None:
        parts.append(
            f"calls rightly in {row['call_match']:.1%} of the first, by name alone in "
            f"{row['name_match']:.1%}, and misses the call in {row['missed_calls']:.1%}"
        )
    if row["words_f1"] is not None:
        parts.append(
            f"has token F1 {row['words_f1']:.3f} in the second and calls needlessly in "
            f"{row['needless_calls']:.1%}"
        )
    if row["invalid_call_share"] is None:
        parts.append("tries no call")
    else:
        parts.append(
            f"of its calls {row['broken_call_share']:.1%} are no JSON with a name and arguments "
            f"and {row['unoffered_call_share']:.1%} of no tool that it was offered"
        )
    return ", ".join(parts)
