"""A training killed at any step and run again makes the very model that it would have made.

A few kills by default; `make faults` kills at every step.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.distillation.__main__ import Paths as DistillationPaths
from tasks.finetuning.__main__ import Paths as FinetuningPaths
from tests.faults.killing import Victim
from tests.faults.stages import StageForks
from tests.unit.conftest import Tiny

STEPS, EVERY = 12, 3  # optimizer steps, and how many between two evaluations
ALL = os.environ.get("NIGHTLOOM_FAULTS") == "all"
KILLS = range(1, STEPS + 1) if ALL else (1, 5, 12)
DISTILLATION_KILLS = [
    (series, step)
    for series in ("student-1", "control-1")
    for step in (range(1, STEPS + 1) if ALL else (5,))
]
TRAINING: dict[str, Any] = {
    "batch_examples": 1,
    "token_budget": 4000,
    "evaluations": 4,
    "learning_rate": 1.0e-2,
}
COMPUTE = {"threads": 1, "device": "cpu", "micro_batch_tokens": 256}


@pytest.fixture(scope="module")
def finetuning(tiny: Tiny, tokens: Path, forks: StageForks) -> Victim:
    changes = {"finetuning": TRAINING | {"dropout": 0.1}, "models": {}, "compute": COMPUTE}
    given = {"tokens": tokens, "base": tiny.base, "model_store": tiny.store}
    return Victim("finetuning", FinetuningPaths, changes, given, "adapter", forks)


@pytest.fixture(scope="module")
def distillation(tiny: Tiny, tokens: Path, forks: StageForks) -> Victim:
    learning = TRAINING | {"students": [1], "signal": "cached", "compared_examples": 4}
    learning["fitted_learning_rate"] = TRAINING["learning_rate"]
    changes = {"distillation": learning, "prompting": {}, "models": {}, "compute": COMPUTE}
    given = {
        "tokens": tokens,
        "base": tiny.base,
        "student_base": tiny.base,
        "model_store": tiny.store,
        "adapter": tiny.adapter,
    }
    return Victim("distillation", DistillationPaths, changes, given, "students", forks)


def steps_by_line(victim: Victim, root: Path) -> dict[int, str]:
    """Each step's line of the loss, the time at which it was taken included."""
    lines = victim.curves(root).read_text().splitlines()
    rows = {line: json.loads(line) for line in lines if line.endswith("}")}
    return {row["step"]: line for line, row in rows.items() if row["name"] == "loss"}


@pytest.fixture(scope="module")
def straight(finetuning: Victim, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("straight")
    found = finetuning.run_alone(root)
    assert finetuning.steps_done(root) == STEPS
    return found


@pytest.mark.parametrize("step", KILLS)
def test_a_training_killed_at_a_step_makes_the_same_bytes(
    step: int, straight: dict[str, str], finetuning: Victim, tmp_path: Path
) -> None:
    finetuning.kill_at(step, tmp_path)
    before = steps_by_line(finetuning, tmp_path)
    assert finetuning.finish(tmp_path) == straight
    after = steps_by_line(finetuning, tmp_path)
    assert len(after) == STEPS
    kept = [number for number in before if after[number] == before[number]]
    assert len(kept) >= EVERY * ((step - 1) // EVERY)  # all up to the checkpoint was gone on from


def test_a_training_killed_twice_makes_the_same_bytes(
    straight: dict[str, str], finetuning: Victim, tmp_path: Path
) -> None:
    finetuning.kill_at(4, tmp_path)
    finetuning.kill_at(9, tmp_path)
    assert finetuning.finish(tmp_path) == straight


@pytest.fixture(scope="module")
def distilled(distillation: Victim, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("distilled")
    found = distillation.run_alone(root)
    assert distillation.steps_done(root, "student-1") == STEPS
    assert distillation.steps_done(root, "control-1") == STEPS
    return found


@pytest.mark.parametrize(("series", "step"), DISTILLATION_KILLS)
def test_a_distillation_killed_at_a_step_makes_the_same_bytes(
    series: str, step: int, distilled: dict[str, str], distillation: Victim, tmp_path: Path
) -> None:
    distillation.kill_at(step, tmp_path, series)
    assert distillation.finish(tmp_path) == distilled
    for name in ("student-1", "control-1"):
        assert distillation.steps_done(tmp_path, name) == STEPS
