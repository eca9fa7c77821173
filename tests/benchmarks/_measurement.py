"""Us and our peers, interleaved in one process, told as ratios of medians."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def measure(
    ours: Callable[[], object],
    peers: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    is_warm: bool = False,
) -> dict[str, list[float]]:
    """Seconds of each repeat, by name; `ours` and every peer take turns.

    Each runs once before that, unless they are warm.
    """
    contestants = {"ours": ours, **peers}
    if not is_warm:
        for contestant in contestants.values():
            contestant()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            started = time.perf_counter()
            contestant()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def print_result(
    benchmark: str, seconds: Mapping[str, list[float]], figures: Mapping[str, Any]
) -> None:
    """Print the result as the last line: a ratio above 1 means that we are faster."""
    found = compare(seconds)
    result = {
        "benchmark": benchmark,
        "ratios": found["ratios"],
        "spread": found["spread"],
        "figures": {"median_seconds": found["median_seconds"], **figures},
    }
    print(json.dumps(result))


def print_tasks(
    benchmark: str, tasks: Mapping[str, Mapping[str, list[float]]], figures: Mapping[str, Any]
) -> None:
    """Print the result of several measurements of ours, each beside one peer, by its name."""
    found = {
        name: compare({"ours": task["ours"], name: task[name]}) for name, task in tasks.items()
    }
    medians = {
        name: {"ours": one["median_seconds"]["ours"], "theirs": one["median_seconds"][name]}
        for name, one in found.items()
    }
    result = {
        "benchmark": benchmark,
        "ratios": {name: one["ratios"][name] for name, one in found.items()},
        "spread": {name: one["spread"][name] for name, one in found.items()},
        "figures": {"median_seconds": medians, **figures},
    }
    print(json.dumps(result))


def compare(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """The ratio of each peer's median to ours, its spread over the repeats, and the medians."""
    ours = seconds["ours"]
    ratios, spread = {}, {}
    for name, theirs in seconds.items():
        if name != "ours":
            pairs = [peer / own for peer, own in zip(theirs, ours, strict=True)]
            ratios[name] = round(statistics.median(theirs) / statistics.median(ours), 3)
            spread[name] = [round(min(pairs), 3), round(max(pairs), 3)]
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    return {"ratios": ratios, "spread": spread, "median_seconds": medians}
