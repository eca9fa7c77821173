"""One night of the tiny preset, twice, through Prefect, DVC and MLflow themselves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from tasks.orchestration.tracking import TABLE_FILE
from tasks.services.locks import read_pid

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]

OURS = ("PREFECT_", "MLFLOW_", "PYTEST_")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def nightloom(clone: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments),
        cwd=clone,
        env=environment() | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def run(clone: Path) -> tuple[int, dict[str, Any]]:
    done = nightloom(clone, "run", "--preset", "tiny", "--json")
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own files in a git repository of their own."""
    folder = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if Path(name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(Path(name).read_bytes())
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def nights(clone: Path) -> list[tuple[int, dict[str, Any]]]:
    return [run(clone), run(clone)]


def test_the_first_night_executes_every_stage_and_makes_a_version_of_each_model(
    nights: list[tuple[int, dict[str, Any]]],
) -> None:
    code, night = nights[0]
    assert night["error"] is None
    assert {entry["name"]: entry["state"] for entry in night["stages"]} == dict.fromkeys(
        [
            "validation",
            "curation",
            "tokenization",
            "finetuning",
            "distillation",
            "indexing",
            "evaluation",
            "packaging",
        ],
        "executed",
    )
    assert code == {"promoted": 0, "refused": 3}[night["verdict"]]
    assert night["versions"] == {"adapter": 1, "student": 1}
    assert night["aliases"]["adapter"]["candidate"] == 1
    assert night["reasons"]


def test_the_second_night_executes_nothing_makes_no_version_and_says_so(
    nights: list[tuple[int, dict[str, Any]]],
) -> None:
    code, night = nights[1]
    assert (code, night["verdict"], night["error"]) == (0, "unchanged", None)
    assert {entry["state"] for entry in night["stages"]} == {"skipped"}
    assert night["versions"] == nights[0][1]["versions"]
    assert night["aliases"] == nights[0][1]["aliases"]
    assert "no stage had to run" in night["reasons"][0]


def test_a_training_leaves_its_curves_its_plot_and_what_it_was_made_from(
    clone: Path, nights: list[tuple[int, dict[str, Any]]]
) -> None:
    client = MlflowClient(f"sqlite:///{clone / '.nightloom' / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'nightloom'")
    trainings = (
        ("finetuning", "", "steps", "loss", "adapter"),
        ("distillation", "student-1/", "students/1/student/training/steps", "loss-student-1",
         "students/1/student"),
    )  # fmt: skip
    for stage, series, counted, picture, made in trainings:
        [run] = client.search_runs(
            [experiment.experiment_id], filter_string=f"tags.`nightloom.stage` = '{stage}'"
        )
        steps = int(run.data.metrics[counted])
        for curve in ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory"):
            points = client.get_metric_history(run.info.run_id, f"{series}{curve}")
            assert sorted(point.step for point in points) == list(range(1, steps + 1)), curve
        assert len(client.get_metric_history(run.info.run_id, f"{series}validation_loss")) >= 2
        assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
        plot = client.download_artifacts(run.info.run_id, f"{stage}/{picture}.png")
        assert Path(plot).read_bytes().startswith(b"\x89PNG")
        [folder] = clone.glob(f".nightloom/workspaces/*/data/{made}")
        made_from = json.loads((folder / "training.json").read_text())
        assert made_from["numeric_form"] == "nf4_dequantized"
        assert made_from["params"]["learning_rate"] == float(
            run.data.params[f"{stage}.learning_rate"]
        )
        hashes = [made_from[f"{name}_sha256"] for name in ("base", "template", "data")]
        assert [len(found) for found in hashes] == [64] * 3


@pytest.mark.parametrize("benchmark", ["generation", "retrieval"])
def test_on_a_nights_data_a_benchmark_finds_what_its_peers_find(
    clone: Path, nights: list[tuple[int, dict[str, Any]]], benchmark: str
) -> None:
    [workspace] = clone.glob(".nightloom/workspaces/*")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{benchmark}", "--quick",
         "--workspace", workspace],
        cwd=clone, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    # 1 where an answer of ours is no tie with the peer's, or a passage was not found.
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["benchmark"] == benchmark


def test_on_a_nights_data_distillation_beside_trl_comes_to_the_same_divergence(
    clone: Path, nights: list[tuple[int, dict[str, Any]]]
) -> None:
    [workspace] = clone.glob(".nightloom/workspaces/*")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.distillation", "--quick",
         "--workspace", workspace],
        cwd=clone, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratios"].keys() == {"trl_gkd", "online_teacher"}
    assert found["figures"]["divergence_differs_by"]["trl_gkd"] < 0.01
    divergence = found["figures"]["divergence"]
    assert all(
        value < 0.95 * divergence["before"] for value in (divergence["trl_gkd"], divergence["ours"])
    )


def test_a_full_evaluation_asks_more_of_the_same_models_and_leaves_the_night_alone(
    clone: Path, nights: list[tuple[int, dict[str, Any]]]
) -> None:
    [workspace] = clone.glob(".nightloom/workspaces/*")
    lean = workspace / "data" / "reports" / "evaluation" / "metrics.json"
    before = lean.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.evaluate", "--preset", "tiny",
         "--set", "evaluation.variants.records=4"],
        cwd=clone, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1  # no night was run with this override
    assert "run `nightloom run` first" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.evaluate", "--preset", "tiny"],
        cwd=clone, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    full = json.loads((Path(done.stdout.strip()) / "metrics.json").read_text())
    assert full["asked"]["injected"] == 16
    assert set(full["systems"]["control"]) == set(full["systems"]["base"])
    assert set(full["prompts"]["comparison"]["scores"]) == {"base", "adapter"}
    assert lean.read_bytes() == before
    night = json.loads(before)["systems"]["adapter"]["retrieved"]
    assert full["systems"]["adapter"]["retrieved"]["token_f1"] == night["token_f1"]
    client = MlflowClient(f"sqlite:///{clone / '.nightloom' / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'nightloom'")
    [run] = client.search_runs(
        [experiment.experiment_id], filter_string="run_name LIKE 'evaluation-full-%'"
    )
    assert TABLE_FILE in {item.path for item in client.list_artifacts(run.info.run_id)}


def test_the_registered_model_answers_from_its_passages(
    clone: Path, nights: list[tuple[int, dict[str, Any]]]
) -> None:
    done = nightloom(clone, "ask", "What does json.dumps do?", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"] == 1
    assert answer["passages"]


def test_the_doctor_finds_both_stores_and_a_server_that_is_not_there(
    clone: Path, nights: list[tuple[int, dict[str, Any]]]
) -> None:
    done = nightloom(clone, "doctor", "--json")
    findings = {found["name"]: found for found in json.loads(done.stdout)}
    assert (done.returncode, {found["passed"] for found in findings.values()}) == (0, {True})
    assert findings["prefect"]["found"].startswith("embedded")
    done = nightloom(clone, "doctor", "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    findings = {found["name"]: found for found in json.loads(done.stdout)}
    assert (done.returncode, findings["prefect"]["passed"]) == (1, False)
    assert "unset PREFECT_API_URL" in findings["prefect"]["remedy"]


def as_in_a_terminal() -> None:
    """A shell lets its background jobs ignore some signals; these tests may run in one."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


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


def test_a_second_night_at_once_names_the_pid_of_the_first(
    clone: Path, nights: list[tuple[int, dict[str, Any]]]
) -> None:
    first = started(clone)
    try:
        code, night = run(clone)
        assert (code, night["verdict"]) == (1, "failed")
        assert str(first.pid) in night["error"]["message"]
    finally:
        first.communicate(timeout=300)
        assert first.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_night_says_so_and_leaves_no_process(
    number: signal.Signals, clone: Path, nights: list[tuple[int, dict[str, Any]]]
) -> None:
    night = started(clone)
    children = psutil.Process(night.pid).children(recursive=True)
    assert children  # Prefect's server at least
    night.send_signal(number)
    printed, _ = night.communicate(timeout=120)
    assert night.returncode == 1
    assert json.loads(printed)["error"]["class"] == "Interrupted"
    assert psutil.wait_procs(children, timeout=30)[1] == []
