"""A sweep of the tiny preset, interrupted and gone on with, through Optuna, Prefect and MLflow."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import Result
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from flows.cli import app
from tasks.records.predictions import read_predictions
from tasks.records.schema import read_records
from tests.builders.clones import command, environment, nightloom

pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]

SWEEP = ["sweep", "--preset", "tiny", "--json", "--set", "sweep.trials=2"]
SWEEP += ["--set", "sweep.startup_trials=1"]


# A loss may not grow at all in some trials, which none survives.
SPACE = "sweep.space={finetuning.learning_rate: {low: 1.0e-6, high: 1.0e-2, draw: log},"
SPACE += " finetuning.max_loss_growth: {choices: [5.0, 1.000001]}}"


def test_an_interrupted_sweep_goes_on_stops_bad_trials_and_prints_the_best_as_params(
    after_a_night: Path,
) -> None:
    nights = list((after_a_night / ".nightloom" / "nights").iterdir())
    words = [*SWEEP, "--set", "sweep.trials=6", "--set", SPACE]
    first = subprocess.Popen(
        command(*words), cwd=after_a_night, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pattern = ".nightloom/sweeps/*/*/data/scratch/finetuning/curves.jsonl"
    deadline = time.monotonic() + 500
    while not any(after_a_night.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert psutil.wait_procs(children, timeout=12)[1] == []
    assert len(list(after_a_night.glob(pattern))) == 1

    done = nightloom(after_a_night, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    killed, *trials = found["trials"]
    assert killed["state"] == "fail"
    assert killed["params"] == trials[0]["params"]
    assert len(trials) == 6
    ended: dict[str, list[dict[str, Any]]] = {"complete": [], "pruned": [], "fail": []}
    for trial in trials:
        ended[trial["state"]].append(trial)
    assert all(ended.values())
    assert found["value"] == min(trial["value"] for trial in ended["complete"])
    [best] = [trial for trial in ended["complete"] if trial["value"] == found["value"]]
    assert found["best"] == best["params"]
    rate = best["params"]["finetuning.learning_rate"]
    assert all(trial["params"]["finetuning.learning_rate"] < rate for trial in ended["pruned"])
    for trial in ended["fail"]:
        assert trial["params"]["finetuning.max_loss_growth"] < 2
        assert "the training loss is" in trial["reason"]
    assert "trial-1 (" in done.stderr  # a line a trial
    assert list((after_a_night / ".nightloom" / "nights").iterdir()) == nights  # it is none

    client = MlflowClient(f"sqlite:///{after_a_night / '.nightloom' / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'nightloom'")
    runs = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`mlflow.parentRunId` = '{found['mlflow_run']}'",
    )
    assert all("finetuning.learning_rate" in run.data.params for run in runs)
    states = {run.info.run_name: run.info.status for run in runs}
    assert len(states) == 7
    assert "RUNNING" not in states.values()
    stopped = [killed, *ended["pruned"]]
    assert {states[f"trial-{trial['number']}"] for trial in stopped} == {"KILLED"}
    assert {states[f"trial-{trial['number']}"] for trial in ended["fail"]} == {"FAILED"}
    sweeps = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`nightloom.key` = '{found['study']}'"
    )
    assert [run.info.run_id for run in sweeps] == [found["mlflow_run"]]


def test_a_sweep_maximizes_the_score_of_answers_on_the_validation_split(
    after_a_night: Path,
) -> None:
    words = ["stage=evaluation", "metric=systems.adapter.closed_book.token_f1", "goal=maximize"]
    words += ["curve=null", "trials=1", "space={evaluation.instruction_tokens: {choices: [4]}}"]
    given = [word for text in words for word in ("--set", f"sweep.{text}")]
    done = nightloom(after_a_night, "sweep", "--preset", "tiny", "--json", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    [workspace] = (after_a_night / ".nightloom" / "sweeps" / found["study"]).iterdir()
    rows = read_predictions(workspace / "data" / "reports" / "evaluation" / "predictions.parquet")
    validation = read_records(workspace / "data" / "curated" / "validation.jsonl")
    assert {row.record for row in rows} <= {record.id for record in validation}
    metrics = json.loads((workspace / "data/reports/evaluation/metrics.json").read_text())
    assert found["value"] == metrics["systems"]["adapter"]["closed_book"]["token_f1"]
    assert found["best"] == {"evaluation.instruction_tokens": 4}


def refused(clone: Path, space: str) -> Result:
    """What a sweep over a space says, called in this process: it ends before Prefect starts."""
    words = ["sweep", "--preset", "tiny", "--set", f"sweep.space={space}", "--root", str(clone)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.exception
    return done


def test_a_param_that_changes_nothing_for_the_stage_is_refused(clone: Path) -> None:
    other = "ingestion.longest_line_bytes: {choices: [9000]}"
    space = f"{{distillation.likeliest: {{choices: [8, 16]}}, {other}}}"
    done = refused(clone, space)
    said = " ".join(done.stderr.split())
    names = "distillation.likeliest, ingestion.longest_line_bytes"
    assert f"holds {names}, which would change nothing" in said


def test_a_stage_that_needs_the_test_split_is_no_sweeps(clone: Path) -> None:
    words = ["sweep", "--set", "sweep.stage=packaging", "--root", str(clone)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "needs answers on the test split" in " ".join(done.stderr.split())


def test_a_curve_that_is_not_there_ends_the_sweep_at_its_first_trial(after_a_night: Path) -> None:
    space = "sweep.space={finetuning.rank: {choices: [2]}}"
    done = nightloom(after_a_night, *SWEEP, "--set", space, "--set", "sweep.curve=val_loss")
    assert done.returncode == 1
    assert "stops trials by the curve 'val_loss'" in " ".join(done.stderr.split())
    assert "trial-1" not in done.stderr


def test_a_sweep_over_a_param_that_is_not_there_names_the_nearest(clone: Path) -> None:
    done = refused(clone, "{finetuning.rnk: {choices: [4, 8]}}")
    assert "finetuning.rank" in done.stderr
