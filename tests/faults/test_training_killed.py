"""A training killed at any step and run again makes the very adapter that it would have made.

A few kills by default; `make faults` kills at every step.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from tasks.finetuning.__main__ import Paths as FinetuningPaths
from tasks.stage.outputs import folder_files, verified
from tasks.stage.params import PromptingParams, read_yaml
from tests.unit.conftest import Tiny
from tests.unit.test_tokenization import tokenize

STEPS, EVERY = 12, 3  # optimizer steps, and how many between two evaluations
KILLS = range(1, STEPS + 1) if os.environ.get("NIGHTLOOM_FAULTS") == "all" else (1, 5, 12)
CHANGES = {
    "finetuning": {
        "batch_examples": 1,
        "token_budget": 4000,
        "evaluations": 4,
        "dropout": 0.1,
        "learning_rate": 1.0e-2,
    },
    "models": {},
    "compute": {"threads": 1, "device": "cpu", "micro_batch_tokens": 256},
}


@pytest.fixture(scope="module")
def tokens(
    tiny: Tiny, prompting: PromptingParams, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("tokens")
    return tokenize(root, tiny, prompting, tiny.curated).tokens


def command(root: Path, tiny: Tiny, tokens: Path) -> list[str]:
    """The stage's command line, with its outs and scratch in a folder of its own."""
    found = [sys.executable, "-m", "tasks.finetuning", "--params"]
    for name, changes in CHANGES.items():
        path = root / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(read_yaml(Path(f"params/{name}.yaml")) | changes))
        found.append(str(path))
    given = {"tokens": tokens, "base": tiny.base, "model_store": tiny.store}
    for field in fields(FinetuningPaths):
        found += [f"--{field.name}", str(given.get(field.name, root / field.name))]
    return found


def steps_done(root: Path) -> int:
    path = root / "scratch" / "finetuning" / "curves.jsonl"
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")[:-1]
    return sum(json.loads(line)["name"] == "loss" for line in lines)


def kill_at(step: int, root: Path, tiny: Tiny, tokens: Path) -> None:
    """Run the stage and kill it, as the kernel would, once it has taken so many steps."""
    child = subprocess.Popen(
        command(root, tiny, tokens), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while steps_done(root) < step and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it had ended by itself"


def steps_by_line(root: Path) -> dict[int, str]:
    """Each step's line of the loss, the time at which it was taken included."""
    lines = (root / "scratch" / "finetuning" / "curves.jsonl").read_text().splitlines()
    rows = {line: json.loads(line) for line in lines if line.endswith("}")}
    return {row["step"]: line for line, row in rows.items() if row["name"] == "loss"}


def finish(root: Path, tiny: Tiny, tokens: Path) -> dict[str, str]:
    """The hashes of the adapter's files."""
    done = subprocess.run(command(root, tiny, tokens), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder_files(verified(root / "adapter"))


@pytest.fixture(scope="module")
def straight(tiny: Tiny, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("straight")
    found = finish(root, tiny, tokens)
    assert steps_done(root) == STEPS
    return found


@pytest.mark.parametrize("step", KILLS)
def test_a_training_killed_at_a_step_makes_the_same_bytes(
    step: int, straight: dict[str, str], tiny: Tiny, tokens: Path, tmp_path: Path
) -> None:
    kill_at(step, tmp_path, tiny, tokens)
    before = steps_by_line(tmp_path)
    assert finish(tmp_path, tiny, tokens) == straight
    after = steps_by_line(tmp_path)
    assert len(after) == STEPS
    kept = [number for number in before if after[number] == before[number]]
    assert len(kept) >= EVERY * ((step - 1) // EVERY)  # all up to the checkpoint was gone on from


def test_a_training_killed_twice_makes_the_same_bytes(
    straight: dict[str, str], tiny: Tiny, tokens: Path, tmp_path: Path
) -> None:
    kill_at(4, tmp_path, tiny, tokens)
    kill_at(9, tmp_path, tiny, tokens)
    assert finish(tmp_path, tiny, tokens) == straight
