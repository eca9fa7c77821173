"""Curation of few and of many made records: what a row costs, and how that grows with the rows.

Microseconds of CPU a row of the checks that compare rows with one another (near duplicates among
all, and the leak check of the finished files), of the whole stage, and kilobytes a row. There is no
peer: what datasketch takes for near duplicates is told by `deduplication`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tasks.curation import __main__ as stage
from tasks.curation.params import Params
from tasks.stage.params import load_params
from tests.benchmarks._memory import growth
from tests.builders.intake_places import make_accepted

_CHECKS = {"near_duplicates": "select", "leaks": "check_leakage"}


def curate(accepted: Path, root: Path) -> None:
    """Run the stage on a folder of accepted rows."""
    params = load_params(Params, [Path("params/curation.yaml")])
    paths = stage.Paths(accepted, root / "curated", root / "report", root / "scratch")
    stage.run(params, paths)


def costs(accepted: Path, root: Path) -> dict[str, float]:
    """Return what a row costs: microseconds of CPU of each check and in all, kilobytes, and the
    share of the rows that is kept. Call it in a process of its own.
    """
    seconds: dict[str, float] = {}
    for check, function in _CHECKS.items():
        setattr(stage, function, _timed(check, getattr(stage, function), seconds))
    whole = _timed("stage", curate, seconds)
    megabytes = growth(lambda: whole(accepted, root))
    rows = sum(1 for _ in (accepted / "records.jsonl").open("rb"))
    kept = json.loads((root / "report" / "metrics.json").read_text())["kept"]
    microseconds = {name: round(value / rows * 1e6, 1) for name, value in seconds.items()}
    return {**microseconds, "kilobytes": round(megabytes * 1000 / rows, 2), "kept": kept / rows}


def _timed(
    name: str, function: Callable[..., Any], seconds: dict[str, float]
) -> Callable[..., Any]:
    """Return the function, whose CPU seconds are noted under a name."""

    def call(*arguments: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments)
        finally:
            seconds[name] = time.process_time() - started

    return call


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 and 20,000 rows")
    parser.add_argument("--rows", type=int, default=None, help="400,000, or 20,000 with --quick")
    options = parser.parse_args()
    most = options.rows or (20_000 if options.quick else 400_000)
    figures = {}
    for count in (most // 10, most):
        with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(1) as pool:
            accepted = make_accepted(Path(folder) / "accepted", count)
            figures[f"{count}_rows"] = pool.apply(costs, (accepted, Path(folder)))
    few, many = figures.values()
    checks = [sum(one[check] for check in _CHECKS) for one in (few, many)]
    figures["checks"] = {
        "microseconds": round(checks[1], 1),
        "growth": round(checks[1] / checks[0], 2),
    }
    print(json.dumps({"benchmark": "curation", "ratios": {}, "spread": {}, "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
