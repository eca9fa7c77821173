"""Metrics that may not be there: null, and a reason beside it."""

from collections.abc import Iterable

Metrics = dict[str, float | int | str | None]


def null(name: str, reason: str) -> Metrics:
    """A metric that could not be computed, and why."""
    return {name: None, f"{name}_reason": reason}


def mean_of(name: str, values: Iterable[float | None], reason: str) -> Metrics:
    """The mean of the values that are there, and over how many records; null where none is."""
    there = [value for value in values if value is not None]
    mean: Metrics = {name: sum(there) / len(there)} if there else null(name, reason)
    return mean | {f"{name}_records": len(there)}
