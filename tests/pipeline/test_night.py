"""A night of the tiny preset and what comes after it, through Prefect, DVC and MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from mlflow.tracking import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from flows.cli import app
from flows.permissions import open_places
from tasks.orchestration.run_content import TABLE_FILE
from tasks.services.locks import read_pid
from tests.builders.clones import (
    BuiltClone,
    as_in_a_terminal,
    command,
    environment,
    nightloom,
    run,
)

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]


def started(clone: Path) -> "subprocess.Popen[str]":
    """A night that holds its workspace's lock by now."""
    first = subprocess.Popen(
        command("run", "--preset", "tiny", "--json"),
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=as_in_a_terminal,
    )
    [lock] = clone.glob(".nightloom/workspaces/*/.nightloom/night.lock")
    deadline = time.monotonic() + 120
    while read_pid(lock) != first.pid and time.monotonic() < deadline:
        time.sleep(0.1)
    return first


@dataclass(frozen=True)
class SecondNight:
    """A night like the first one, and how one ended that was begun while it ran."""

    pid: int
    code: int
    report: dict[str, Any]
    at_once: tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def second(after_a_night: Path) -> SecondNight:
    night = started(after_a_night)
    try:
        at_once = run(after_a_night)
    finally:
        printed, _ = night.communicate(timeout=300)
    return SecondNight(night.pid, night.returncode, json.loads(printed), at_once)


def test_the_first_night_executes_every_stage_and_makes_a_version_of_each_model(
    built: BuiltClone,
) -> None:
    code, night = built.night
    assert night["error"] is None
    assert {entry["name"]: entry["state"] for entry in night["stages"]} == dict.fromkeys(
        [
            "validation",
            "curation",
            "tokenization",
            "finetuning",
            "distillation",
            "retriever_training",
            "indexing",
            "evaluation",
            "packaging",
        ],
        "executed",
    )
    assert (code, night["verdict"]) == (0, "promoted")
    assert night["versions"] == {"adapter": 1, "student": 1}
    assert night["aliases"]["adapter"]["candidate"] == 1
    assert night["reasons"]


def test_the_second_night_executes_nothing_makes_no_version_and_says_so(
    built: BuiltClone, second: SecondNight
) -> None:
    _, first = built.night
    night = second.report
    assert (second.code, night["verdict"], night["error"]) == (0, "unchanged", None)
    assert {entry["state"] for entry in night["stages"]} == {"skipped"}
    assert night["versions"] == first["versions"]
    assert night["aliases"] == first["aliases"]
    assert "no stage had to run" in night["reasons"][0]


def test_a_second_night_at_once_names_the_pid_of_the_first(second: SecondNight) -> None:
    code, night = second.at_once
    assert (code, night["verdict"]) == (1, "failed")
    assert str(second.pid) in night["error"]["message"]


def test_a_training_leaves_its_curves_its_plot_and_what_it_was_made_from(
    after_a_night: Path, second: SecondNight
) -> None:
    client = MlflowClient(f"sqlite:///{after_a_night / '.nightloom' / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'nightloom'")
    trainings = (
        ("finetuning", "", "steps", "loss", "adapter"),
        ("distillation", "student-1/", "students/1/student/training/steps", "loss-student-1",
         "students/1/student"),
    )  # fmt: skip
    for stage, series, counted, picture, made in trainings:
        [run] = client.search_runs(
            [experiment.experiment_id], filter_string=f"run_name = '{stage}'"
        )
        steps = int(run.data.metrics[counted])
        for curve in ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory"):
            points = client.get_metric_history(run.info.run_id, f"{series}{curve}")
            assert sorted(point.step for point in points) == list(range(1, steps + 1)), curve
        assert len(client.get_metric_history(run.info.run_id, f"{series}validation_loss")) >= 2
        assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
        plot = client.download_artifacts(run.info.run_id, f"{stage}/{picture}.png")
        assert Path(plot).read_bytes().startswith(b"\x89PNG")
        [folder] = after_a_night.glob(f".nightloom/workspaces/*/data/{made}")
        made_from = json.loads((folder / "training.json").read_text())
        assert made_from["numeric_form"] == "nf4_dequantized"
        assert made_from["params"]["learning_rate"] == float(
            run.data.params[f"{stage}.learning_rate"]
        )
        hashes = [made_from[f"{name}_sha256"] for name in ("base", "template", "data")]
        assert [len(found) for found in hashes] == [64] * 3


def test_a_full_evaluation_asks_more_of_the_same_models_and_leaves_the_night_alone(
    after_a_night: Path, second: SecondNight
) -> None:
    [workspace] = after_a_night.glob(".nightloom/workspaces/*")
    lean = workspace / "data" / "reports" / "evaluation" / "metrics.json"
    before = lean.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.evaluate", "--preset", "tiny",
         "--set", "evaluation.variants.records=4"],
        cwd=after_a_night, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1  # no night was run with this override
    assert "run `nightloom run` first" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.evaluate", "--preset", "tiny"],
        cwd=after_a_night, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    full = json.loads((Path(done.stdout.strip()) / "metrics.json").read_text())
    assert full["asked"]["injected"] == 16
    assert set(full["systems"]["control"]) == set(full["systems"]["base"])
    assert set(full["prompts"]["comparison"]["scores"]) == {"base", "adapter"}
    assert lean.read_bytes() == before
    night = json.loads(before)["systems"]["adapter"]["retrieved"]
    assert full["systems"]["adapter"]["retrieved"]["token_f1"] == night["token_f1"]
    client = MlflowClient(f"sqlite:///{after_a_night / '.nightloom' / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'nightloom'")
    [run] = client.search_runs(
        [experiment.experiment_id], filter_string="run_name LIKE 'evaluation-full-%'"
    )
    assert TABLE_FILE in {item.path for item in client.list_artifacts(run.info.run_id)}


def test_the_registered_model_answers_from_its_passages(
    after_a_night: Path, second: SecondNight
) -> None:
    done = nightloom(after_a_night, "ask", "What does json.dumps do?", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"] == 1
    assert answer["passages"]


def test_nobody_else_can_read_what_a_night_leaves(built: BuiltClone) -> None:
    """What is copied from the checkout, as params are, keeps its mode; its folders are closed."""
    state = built.checkout / ".nightloom"
    stores = ("mlflow.db", "prefect/prefect.db*", "logs/*.log", "nights/*.json")
    written = ("records.jsonl", "data_docs.html", "report.md", "metrics.json", "*.safetensors")
    found = [path for pattern in stores for path in state.glob(pattern)]
    assert {path.suffix for path in found} >= {".db", ".log", ".json"}
    found += [path for name in written for path in state.rglob(name)]
    assert len(found) > 20
    opened = [path for path in found if not path.is_symlink() and path.stat().st_mode & 0o077]
    # DVC gives what it links from its cache a mode of its own.
    assert [str(path) for path in opened if path.stat().st_mode & 0o777 != 0o444] == []
    os.umask(0o077)  # as in a command of ours: DVC makes a folder where it looks
    assert open_places(built.checkout) == []


def test_the_doctor_finds_both_stores_and_a_server_that_is_not_there(
    after_a_night: Path, second: SecondNight
) -> None:
    done = nightloom(after_a_night, "doctor", "--json")
    findings = {found["name"]: found for found in json.loads(done.stdout)}
    assert (done.returncode, {found["passed"] for found in findings.values()}) == (0, {True})
    assert findings["prefect"]["found"].startswith("embedded")
    # In this process, whose environment is as before when it has ended.
    away = {PREFECT_API_URL: "http://127.0.0.1:9/api"}
    with patch.dict(os.environ, environment(), clear=True), temporary_settings(away):
        os.environ["PREFECT_API_URL"] = away[PREFECT_API_URL]
        result = CliRunner().invoke(app, ["doctor", "--root", str(after_a_night), "--json"])
    findings = {found["name"]: found for found in json.loads(result.stdout)}
    assert (result.exit_code, findings["prefect"]["passed"]) == (1, False)
    assert "unset PREFECT_API_URL" in findings["prefect"]["remedy"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_night_says_so_and_leaves_no_process(
    number: signal.Signals, after_a_night: Path, second: SecondNight
) -> None:
    night = started(after_a_night)
    children = psutil.Process(night.pid).children(recursive=True)
    assert children  # Prefect's server at least
    night.send_signal(number)
    printed, _ = night.communicate(timeout=120)
    assert night.returncode == 1
    assert json.loads(printed)["error"]["class"] == "Interrupted"
    assert psutil.wait_procs(children, timeout=30)[1] == []
