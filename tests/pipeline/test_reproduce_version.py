"""A registered version is made again from its commit, params and rows, and compared by stage."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.stage.params import read_yaml
from tests.builders.clones import git, nightloom

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.timeout(1800)]


def reproduce(checkout: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = nightloom(checkout, "reproduce", "1", *words, "--json")
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


def test_a_version_comes_out_as_it_was(after_a_night: Path) -> None:
    code, found = reproduce(after_a_night)
    assert (code, found["is_same"], found["error"]) == (0, True, None), found
    assert found["commit"] == git(after_a_night, "rev-parse", "HEAD").strip()
    outs = [one for one in found["compared"] if one["what"] == "out"]
    stages = read_yaml(after_a_night / "dvc.yaml")["stages"]
    assert {one["stage"] for one in outs} == set(stages)
    by_digest = {one["name"] for one in outs if one["status"] == "same"}
    assert {"data/adapter", "data/students", "data/index", "data/tokens"} <= by_digest


def test_the_checkout_is_left_as_it_was(after_a_night: Path) -> None:
    assert git(after_a_night, "status", "--short") == ""
    assert nightloom(after_a_night, "doctor", "--json").stdout


def test_other_code_rows_or_params_are_named(after_a_night: Path) -> None:
    """As if the night had read others: its lock in MLflow says so."""
    assert reproduce(after_a_night, "--inputs")[0] == 0
    [lock] = after_a_night.glob(".nightloom/artifacts/*/artifacts/versions/dvc.lock")
    text = lock.read_text(encoding="utf-8")
    [digest] = {line.split()[-1] for line in text.splitlines() if line.endswith(".dir")} & {
        line.split()[-1]
        for before, line in zip(text.splitlines(), text.splitlines()[2:], strict=False)
        if before.strip() == "- path: tasks/finetuning"
    }
    lock.write_text(text.replace(digest, f"{'0' * 32}.dir"), encoding="utf-8")
    code, found = reproduce(after_a_night, "--inputs")
    lock.write_text(text, encoding="utf-8")
    assert (code, found["is_same"]) == (1, False)
    wrong = [(one["stage"], one["name"]) for one in found["compared"] if one["status"] != "same"]
    assert wrong == [("finetuning", "tasks/finetuning")]


def test_a_version_that_is_not_there_is_told(after_a_night: Path) -> None:
    done = nightloom(after_a_night, "reproduce", "99")
    assert done.returncode == 1
    assert "has no version 99" in done.stderr
