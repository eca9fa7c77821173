"""Two nights that are promoted, a rollback, and a night that is refused, by the real release."""

import json
import shutil
from os import environ
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from flows.cli import app
from tests.builders.clones import OURS, UNTIMED, BuiltClone, run, set_params

pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]


def night(clone: Path) -> tuple[int, dict[str, Any]]:
    code, found = run(clone)
    assert found["error"] is None
    return code, found


def told(clone: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--root", str(clone)])


def entries(clone: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(told(clone, "ledger", "--json").stdout)
    return found


@pytest.fixture(autouse=True)
def _no_stores_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands that are called in this process find the clone's alone."""
    for name in environ:
        if name.startswith(OURS) and not name.startswith("PYTEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


def test_versions_are_promoted_held_against_what_reigns_rolled_back_and_refused(
    built: BuiltClone, after_a_night: Path
) -> None:
    code, first = built.night
    assert (code, first["verdict"]) == (0, "promoted")
    assert first["aliases"]["adapter"] == {"candidate": 1, "production": 1, "staging": 1}

    # Another model, on another sample of the test split, so that the first is scored on it too.
    clone = after_a_night
    set_params(clone, "finetuning.seed=1", "evaluation.salt=other", UNTIMED)
    code, second = night(clone)
    assert (code, second["verdict"], second["versions"]) == (0, "promoted", {
        "adapter": 2, "student": 2,
    })  # fmt: skip
    for model in ("adapter", "student"):
        aliases = {"candidate": 2, "previous": 1, "production": 2, "staging": 2}
        assert second["aliases"][model] == aliases
        found = second["models"][model]
        assert (found["verdict"], found["headline"]) == ("promoted", "promoted to production")
        assert any("production:1" in text for text in (*found["reasons"], *found["passed"]))
    judged = [item for item in entries(clone) if item["version"] == 2]
    assert {item["evidence"]["reigning"] for item in judged} == {"production:1"}

    done = told(clone, "rollback", "--reason", "to see it done", "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert json.loads(done.stdout)["aliases"]["production"] == 1
    last = entries(clone)[-1]
    assert last["kind"] == "rolled_back"
    assert "golden prompts" in last["reason"]

    # By the rules as they are: exit code 3, and what reigns is untouched.
    shutil.copyfile("params/promotion.yaml", clone / "params" / "promotion.yaml")
    set_params(clone, "packaging.golden=7", UNTIMED)  # another bundle, of the same models
    code, third = night(clone)
    states = {entry["name"]: entry["state"] for entry in third["stages"]}
    assert states.pop("packaging") == "executed"
    assert set(states.values()) == {"skipped"}
    assert (code, third["verdict"]) == (3, "refused")
    for found in third["models"].values():
        assert found["headline"].startswith("refused (")
        assert "refused by" in found["reasons"][0]
    aliases = {"candidate": 3, "previous": 2, "production": 1, "staging": 2}
    assert third["aliases"]["adapter"] == aliases

    done = told(clone, "promote", "3", "--reason", "it was refused")
    assert done.exit_code == 3
    assert "was refused by the rules" in done.stderr
    done = told(clone, "ledger", "verify", "--json")
    assert (done.exit_code, json.loads(done.stdout)["faults"]) == (0, [])

    client = MlflowClient(f"sqlite:///{clone / '.nightloom' / 'mlflow.db'}")
    stages = {
        item.version: item.tags["stage"]
        for item in client.search_model_versions("name = 'nightloom-adapter'")
    }
    assert {int(number): stage for number, stage in stages.items()} == {
        1: "production",
        2: "staging",
        3: "none",
    }
