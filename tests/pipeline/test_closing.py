"""Whatever `nightloom up` and `nightloom run` open is closed, however they end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow.tracking import MlflowClient

from flows.run_state import NightState, read_night
from flows.servers import Services
from flows.shutdown import Keeper, living, stop_services
from tasks.services.loopback import free_port
from tests.builders.clones import as_in_a_terminal, command, environment, nightloom

pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]


def ports() -> list[str]:
    """Two that nobody listens on, for Prefect and MLflow."""
    return ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]


def started(clone: Path, *arguments: str) -> "subprocess.Popen[str]":
    log = (clone / "said.log").open("w")
    return subprocess.Popen(
        command(*arguments), cwd=clone, env=environment(), stdout=log, stderr=log, text=True,
        preexec_fn=as_in_a_terminal, start_new_session=True,
    )  # fmt: skip


def wait_for(what: Callable[[], object], process: "subprocess.Popen[str]", seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)


def of_stages(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that work on a stage or a model, which is the third level and deeper."""
    found = []
    for process in processes:
        try:
            line = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if line[1:2] == ["-m"] and line[2].startswith("tasks."):
            found.append(process)
    return found


def last_object(text: str) -> Any:
    """The last JSON object in what a command printed; it begins at a line's start."""
    _, brace, rest = f"\n{text}".rpartition("\n{")
    found, _ = json.JSONDecoder().raw_decode(brace.lstrip() + rest)
    return found


def last_night(clone: Path) -> NightState:
    return read_night(max((clone / ".nightloom" / "nights").glob("[!.]*.json")))


def starting(clone: Path) -> "tuple[subprocess.Popen[str], Keeper]":
    """An `up` whose servers have been started and do not answer yet, and what it keeps."""
    up = started(clone, "up", *ports(), "--preset", "tiny")
    wait_for(lambda: Keeper.read(clone), up, 60)
    keeper = Keeper.read(clone)
    assert keeper is not None
    wait_for(lambda: len(living(keeper)) >= 4, up, 60)
    return up, keeper


def assert_over(clone: Path, keeper: Keeper) -> None:
    """Nothing lives, and what `down` does finds nothing to stop."""
    assert living(keeper) == []
    told: list[str] = []
    assert not stop_services(clone, told.append)
    assert told == []


def test_servers_that_are_starting_are_used_by_nobody_and_found_by_down(clone: Path) -> None:
    up, keeper = starting(clone)
    try:
        assert Services.read(clone) is None
        second = nightloom(clone, "up", *ports())
        assert second.returncode == 1
        assert f"starting or stopping, kept by process {up.pid}" in " ".join(second.stderr.split())
        done = nightloom(clone, "down")
        assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
        assert up.wait(1) == 0
        assert_over(clone, keeper)
        done = nightloom(clone, "down")
        assert (done.returncode, done.stdout) == (0, "nothing was up\n")
    finally:
        up.kill()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_a_signal_ends_servers_that_are_starting(clone: Path, name: str) -> None:
    up, keeper = starting(clone)
    up.send_signal(signal.Signals[name])
    assert up.wait(60) == 0
    assert "stopped" in (clone / "said.log").read_text()
    assert_over(clone, keeper)


def test_down_after_up_was_killed_is_right_in_what_it_says(clone: Path) -> None:
    up, keeper = starting(clone)
    up.kill()
    up.wait()
    done = nightloom(clone, "down")  # what is still ending is ended when it returns
    assert done.returncode == 0
    assert living(keeper) == []
    assert_over(clone, keeper)


def refused(url: str) -> tuple[int, int]:
    """What is said to whoever comes without a secret, and to a page that rebound its name."""
    page = {"host": "evil.example", "origin": "http://evil.example"}
    found = [httpx.get(url, headers=headers, timeout=60) for headers in ({}, page)]
    return found[0].status_code, found[1].status_code


def assert_closed(clone: Path, services: Services, keeper: Keeper) -> None:
    """Nobody else can use the servers, and who can runs no command by Prefect's.

    All of their routes are tried in tests/unit/flows/test_strangers.py.
    """
    private = clone / ".nightloom" / "private"
    user, _, password = (private / "prefect-auth").read_text().strip().partition(":")
    _, _, mlflows = (private / "mlflow-auth").read_text().strip().partition(":")
    with httpx.Client(base_url=services.prefect, auth=(user, password), timeout=30) as ours:
        pool = ours.get("/api/work_pools/nightloom").json()
        deployment = ours.get("/api/deployments/name/nightly/nightly").json()
    assert refused(f"{services.prefect}/api/work_pools/nightloom") == (401, 403)
    assert refused(f"{services.mlflow}/api/2.0/mlflow/experiments/search") == (401, 403)
    assert pool["base_job_template"]["variables"]["properties"] == {}
    assert pool["base_job_template"]["job_configuration"] == {"stream_output": True}
    [schedule] = deployment["schedules"]  # in place of the one in prefect.yaml
    assert (schedule["active"], schedule["schedule"]["cron"]) == (True, "* * * * *")
    assert schedule["schedule"]["timezone"] == "Asia/Seoul"
    for process in living(keeper):
        line = " ".join(process.cmdline())
        assert password not in line
        assert mlflows not in line
    # Plain prefect, in a shell that took the settings over.
    script = 'eval "$(PYTHON -m flows.cli env)" && PYTHON -m prefect work-pool inspect nightloom'
    done = subprocess.run(
        ["sh", "-c", script.replace("PYTHON", command()[0])],
        cwd=clone, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nightloom" in done.stdout


def test_down_ends_the_workers_night_first_and_returns_when_nothing_lives(clone: Path) -> None:
    """And no second Ctrl-C, nor the terminal's closing twice, leaves anything.

    While all of it is up, strangers can use none of it.
    """
    schedule = ["--cron", "* * * * *", "--timezone", "Asia/Seoul"]
    up = started(clone, "up", *ports(), "--preset", "tiny", *schedule)
    try:
        wait_for(lambda: Services.read(clone), up, 400)
        keeper = Keeper.read(clone)
        assert keeper is not None
        services = Services.read(clone)
        assert services is not None
        assert_closed(clone, services, keeper)
        wait_for(lambda: of_stages(living(keeper)), up, 400)
        down = subprocess.Popen(
            command("down"), cwd=clone, env=environment(), stdout=subprocess.PIPE, text=True
        )
        wait_for(lambda: Services.read(clone) is None, up, 60)  # it has begun to stop
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGHUP):
            up.send_signal(number)
            time.sleep(0.2)
        said, _ = down.communicate(timeout=150)
        assert living(keeper) == []
        assert down.returncode == 0
        night = last_night(clone)
        assert said.splitlines()[0].startswith(f"ending the night {night.night}, in ")
        assert said.splitlines()[-1] == "stopped"
        assert up.wait(1) == 0
        assert night.error is not None
        assert (night.verdict, night.error.kind) == ("cancelled", "Interrupted")
        assert night.mlflow_run is not None
        client = MlflowClient(f"sqlite:///{clone / '.nightloom' / 'mlflow.db'}")
        assert client.get_run(night.mlflow_run).info.status == "FAILED"
        assert_over(clone, keeper)
    finally:
        up.kill()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGKILL"])
def test_a_night_that_is_ended_in_a_stage_leaves_no_process(clone: Path, name: str) -> None:
    night = started(clone, "run", "--preset", "tiny", "--json")
    below = psutil.Process(night.pid)
    wait_for(lambda: of_stages(below.children(recursive=True)), night, 300)
    processes = below.children(recursive=True)
    assert any("prefect" in " ".join(process.cmdline()) for process in processes)
    night.send_signal(signal.Signals[name])
    assert night.wait(90) == {"SIGHUP": 1, "SIGKILL": -9}[name]
    assert psutil.wait_procs(processes, timeout=12)[1] == []
    if name == "SIGHUP":
        error = last_night(clone).error
        assert error is not None
        assert error.kind == "Interrupted"
        assert last_object((clone / "said.log").read_text())["error"]["class"] == "Interrupted"


def test_down_waits_for_the_night_of_another_shell(clone: Path, tmp_path: Path) -> None:
    """With a process that keeps what `up` keeps, and one that holds a night's lock."""
    keeping = subprocess.Popen(["sleep", "60"], env=dict(os.environ), preexec_fn=as_in_a_terminal)
    keeper = Keeper(pid=keeping.pid, started=psutil.Process(keeping.pid).create_time())
    keeper.write(clone)
    lock = clone / ".nightloom" / "night.lock"
    code = (
        "import sys, time; from pathlib import Path; from flows.workspace import night_lock\n"
        "with night_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(6)"
    )
    night = subprocess.Popen(
        [command()[0], "-c", code, lock], cwd=clone, stdout=subprocess.PIPE, text=True
    )
    assert night.stdout is not None
    assert night.stdout.readline() == "held\n"
    done = nightloom(clone, "down")
    assert night.poll() == 0
    assert f"waiting for the night of process {night.pid}" in done.stdout
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "stopped")
    assert keeping.wait(1) == -signal.SIGTERM
