"""Two nights that are promoted, a rollback, and a night that is refused, by the real release."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tasks.promotion.params import RulesParams
from tests.pipeline.test_night import clone, nightloom

pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]
__all__ = ["clone"]  # a fixture

# Two layers answer nothing well: what is looked at here is what becomes of a verdict.
MILD = [
    word
    for rule in RulesParams.model_fields
    for word in ("--set", f"promotion.rules.{rule}.severity=warn")
]
AUTOMATIC = ["--set", "release.production=automatic"]
# Another model, scored on another sample of the test split.
OTHER = ["--set", "finetuning.seed=1", "--set", "evaluation.salt=other"]


def night(clone: Path, *settings: str) -> tuple[int, dict[str, Any]]:
    done = nightloom(clone, "run", "--preset", "tiny", "--json", *settings)
    assert done.stdout, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["error"] is None
    return done.returncode, found


def entries(clone: Path) -> list[dict[str, Any]]:
    done = nightloom(clone, "ledger", "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_versions_are_promoted_held_against_what_reigns_rolled_back_and_refused(
    clone: Path,
) -> None:
    code, first = night(clone, *MILD, *AUTOMATIC)
    assert (code, first["verdict"]) == (0, "promoted")
    assert first["aliases"]["adapter"] == {"candidate": 1, "production": 1, "staging": 1}

    code, second = night(clone, *MILD, *AUTOMATIC, *OTHER)
    assert (code, second["verdict"], second["versions"]) == (0, "promoted", {
        "adapter": 2, "student": 2,
    })  # fmt: skip
    for model in ("adapter", "student"):
        aliases = {"candidate": 2, "previous": 1, "production": 2, "staging": 2}
        assert second["aliases"][model] == aliases
    judged = [item for item in entries(clone) if item["version"] == 2]
    assert {item["evidence"]["reigning"] for item in judged} == {"production:1"}
    assert any("production:1" in reason for reason in second["reasons"])

    done = nightloom(clone, "rollback", "--reason", "to see it done", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["aliases"]["production"] == 1
    last = entries(clone)[-1]
    assert last["kind"] == "rolled_back"
    assert "golden prompts" in last["reason"]

    # By the rules as they are: exit code 3, and what reigns is untouched.
    code, third = night(clone, *AUTOMATIC, *OTHER)
    assert (code, third["verdict"]) == (3, "refused")
    aliases = {"candidate": 3, "previous": 2, "production": 1, "staging": 2}
    assert third["aliases"]["adapter"] == aliases

    done = nightloom(clone, "promote", "3", "--reason", "it was refused")
    assert done.returncode == 3
    assert "was refused by the rules" in done.stderr
    done = nightloom(clone, "ledger", "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["faults"]) == (0, [])

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
