"""The benchmarks that need no night, in a short form: what makes their comparisons fair holds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders.clones import environment

pytestmark = pytest.mark.timeout(900)


def figures(benchmark: str, *arguments: str, at: Path | None = None) -> dict[str, Any]:
    """The JSON object that a benchmark prints last, its parts all there."""
    command = [sys.executable, "-m", f"tests.benchmarks.{benchmark}", *arguments]
    done = subprocess.run(
        command, cwd=at, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["benchmark"] == benchmark
    assert found["ratios"].keys() == found["spread"].keys()
    assert all(ratio > 0 for ratio in found["ratios"].values())
    return found


def test_finetuning_comes_to_the_same_loss_as_trl() -> None:
    found = figures("finetuning", "--quick", "--workloads", "small")
    assert found["ratios"].keys() == {"trl_default", "trl_tuned"}
    small = found["figures"]["small"]
    assert all(difference < 0.005 for difference in small["loss_differs_by"].values())
    assert all(0 < share < 1 for share in small["model_flop_utilisation"].values())


def test_validation_gives_every_row_the_same_verdict() -> None:
    found = figures("validation", "--quick", "--rows", "1000", "--repeats", "1")
    assert found["figures"]["same_verdict_for_every_row"]
    assert found["figures"]["bad_rows"] > 0


def test_deduplication_finds_what_was_planted() -> None:
    found = figures("deduplication", "--rows", "800", "--repeats", "1")
    assert all(found["figures"][side]["recall"] >= 0.99 for side in ("ours", "ours_korean"))


def test_a_decision_has_scipys_bounds() -> None:
    found = figures("decision", "--quick", "--repeats", "1")
    assert found["ratios"].keys() == {"scipy", "scipy_batched"}
    assert found["figures"]["bounds_differ_by"] < 0.01
    assert found["figures"]["decision_seconds"]["median"] < 5
