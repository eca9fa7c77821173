"""What a killed night leaves open in its file, MLflow and Prefect is closed, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from mlflow.tracking import MlflowClient
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Completed, Pending, Running, Scheduled

from flows.abandoned import close_abandoned
from flows.rerun import interrupted
from flows.run_state import (
    NightState,
    StageEntry,
    night_file,
    read_night,
    write_night,
)
from flows.workspace import STATE
from tasks.orchestration.flow_runs import (
    crash_abandoned,
    delete_missed,
    make_heartbeat_watch,
    start_deployed,
    was_cancelled,
)
from tasks.orchestration.tracking import Tracker
from tasks.services import run_tags
from tasks.services.processes import process_tag
from tasks.services.stores import Stores
from tests.builders.notified import write_params
from tests.builders.prefect_server import prefect_server

NIGHT, OTHER = "2026-11-29T023000Z", "2026-11-29T033000Z"
GONE = 2**22 + 7  # no process has this pid: Linux counts to 2^22


@pytest.fixture(scope="module", autouse=True)
def _prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with prefect_server(tmp_path_factory):
        yield


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    write_params(tmp_path)
    for name in ("prefect.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / STATE / "nights").mkdir(parents=True)
    return tmp_path


def gone_tag() -> str:
    host = process_tag().rsplit(" ", 2)[0]
    return f"{host} {GONE} 1.0"


def test_a_killed_nights_file_and_runs_are_closed_and_those_of_others_stay(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = Stores(f"sqlite:///{checkout / STATE / 'mlflow.db'}", checkout / STATE / "artifacts")
    tracker = Tracker(stores)
    client = MlflowClient(stores.tracking_uri)
    night, living = tracker.begin_night(NIGHT, {}), tracker.begin_night(OTHER, {})
    stage = tracker.begin_judge(night, "finetuning")  # a child, of a process that lives
    lost = tracker.begin_judge(living, "evaluation")
    client.set_tag(lost.run_id, run_tags.PROCESS, gone_tag())
    elsewhere = tracker.begin_judge(living, "elsewhere")
    client.set_tag(elsewhere.run_id, run_tags.PROCESS, f"another-machine {GONE} 1.0")
    path = night_file(checkout, NIGHT)
    write_night(
        path,
        NightState(
            night=NIGHT, workspace=str(checkout), pid=GONE, step="finetuning", told=[],
            stages=[StageEntry(name="finetuning", state="running")], mlflow_run=night.run_id,
        ),
    )  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stores.tracking_uri)

    told = close_abandoned(checkout, prefect=False)
    assert told[0] == f"night {NIGHT} was cut short in finetuning: its verdict is crashed"
    assert len(told) == 4
    closed = read_night(path)
    assert (closed.verdict, closed.stages[0].state) == ("crashed", "failed")
    assert closed.told is not None
    assert [telling.verdict for telling in closed.told] == ["crashed"]
    status = {
        run.run_id: client.get_run(run.run_id).info.status
        for run in (night, stage, lost, living, elsewhere)
    }
    assert [status[run.run_id] for run in (night, stage, lost)] == ["FAILED"] * 3
    assert [status[run.run_id] for run in (living, elsewhere)] == ["RUNNING"] * 2
    data = client.get_run(night.run_id).data
    assert data.tags["verdict"] == "crashed"
    assert "was killed" in data.tags["mlflow.note.content"]
    assert close_abandoned(checkout, prefect=False) == []


@flow(name="nightly")
def _nightly(night: str | None = None) -> None:
    """Stand in for the flow of that name."""


@task
def _rescore() -> None:
    """Stand in for a task of a night."""


def deployed() -> UUID:
    """A deployment of one night a minute, one at a time, as `prefect.yaml` has it."""
    with get_client(sync_client=True) as client:
        found = client.create_flow(_nightly)
        return client.create_deployment(
            found, "nightly", concurrency_limit=1, entrypoint="nightly.py:nightly",
            parameter_openapi_schema={},
        )  # fmt: skip


def names(runs: list[FlowRun]) -> set[str]:
    return {run.name for run in runs}


def states(*runs: UUID) -> list[StateType | None]:
    with get_client(sync_client=True) as client:
        return [client.read_flow_run(run).state_type for run in runs]


def test_runs_that_no_process_runs_crash_and_living_ones_go_on() -> None:
    deployment = deployed()
    with get_client(sync_client=True) as client:

        def run(name: str, state: StateType = StateType.RUNNING) -> UUID:
            made = client.create_flow_run_from_deployment(deployment, name=f"nightly {name}")
            given = Running() if state == StateType.RUNNING else Pending()
            client.set_flow_run_state(made.id, given, force=True)
            return made.id

        ended, living, young = run("ended"), run("living"), run("young", StateType.PENDING)
        known, old = run("known"), run("old")
        now = datetime.now(UTC).timestamp()
        begun = {"alive": {str(known)}, "ended": {"ended"}, "pending_seconds": 60.0}
        assert names(crash_abandoned(**begun, begun_before=now - 3600)) == {"nightly ended"}
        assert states(ended, living, young, known) == [
            StateType.CRASHED, StateType.RUNNING, StateType.PENDING, StateType.RUNNING
        ]  # fmt: skip
        closed = crash_abandoned(**begun, begun_before=now + 3600)
        assert names(closed) == {"nightly living", "nightly old"}
        assert {run.state_type for run in closed} == {StateType.CRASHED}
        assert states(known, young, old) == [
            StateType.RUNNING, StateType.PENDING, StateType.CRASHED
        ]  # fmt: skip
        nobody = {"alive": set(), "ended": set(), "pending_seconds": 0.0, "begun_before": None}
        assert len(crash_abandoned(**nobody)) == 2
        assert crash_abandoned(**nobody) == []


def test_task_runs_of_flow_runs_that_are_over_crash_unless_their_process_lives() -> None:
    deployment = deployed()
    with get_client(sync_client=True) as client:

        def task_of(state: State[Any]) -> tuple[str, UUID]:
            run = client.create_flow_run_from_deployment(deployment)
            client.set_flow_run_state(run.id, Running(), force=True)
            made = client.create_task_run(_rescore, run.id, dynamic_key="0", state=Running())
            client.set_flow_run_state(run.id, state, force=True)
            return str(run.id), made.id

        (_, cancelled), (_, done), (living, ending) = (
            task_of(state) for state in (Cancelled(), Completed(), Cancelled())
        )
        crash_abandoned(alive={living}, ended=(), begun_before=None, pending_seconds=0.0)

        found = [client.read_task_run(task).state_type for task in (cancelled, done, ending)]
        assert found == [StateType.CRASHED, StateType.CRASHED, StateType.RUNNING]


def test_a_night_whose_run_waited_for_its_process_is_told_and_can_be_run_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{checkout / STATE / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(checkout / STATE / "artifacts"))
    asked = {"night": NIGHT, "overrides": ["finetuning.rank=2"]}
    with get_client(sync_client=True) as client:
        waiting, by_hand = (
            client.create_flow_run_from_deployment(
                deployed(), name=f"nightly {NIGHT}", parameters=asked
            ),
            client.create_flow_run(
                _nightly, name="nightly by-hand", parameters={"night": "by-hand"}
            ),
        )
        for run in (waiting, by_hand):
            client.set_flow_run_state(run.id, Pending(), force=True)
    told = close_abandoned(checkout)
    assert set(told) == {
        f"Prefect: the run nightly {name} stayed open: it is Crashed" for name in (NIGHT, "by-hand")
    }
    night = read_night(night_file(checkout, NIGHT))
    assert (night.verdict, night.flow_run, night.step) == ("crashed", str(waiting.id), "not begun")
    assert night.request is not None
    assert night.request.overrides == ["finetuning.rank=2"]
    assert night.told is not None
    assert [telling.verdict for telling in night.told] == ["crashed"]
    assert interrupted([night]) == night
    assert not night_file(checkout, "by-hand").exists(), "whoever started it saw it end"
    assert close_abandoned(checkout) == []


def test_missed_runs_are_counted_and_a_night_is_started_by_name() -> None:
    """Those that a person asked for are none, nor those that were cancelled before."""
    deployment = deployed()
    now = datetime.now(UTC)
    with get_client(sync_client=True) as client:
        client.create_deployment_schedules(
            deployment, [(CronSchedule(cron="0 * * * *", timezone="Etc/UTC"), True)]
        )
        span = {"start_time": str(now - timedelta(hours=4)), "end_time": str(now), "min_runs": 4}
        client.request("POST", f"/deployments/{deployment}/schedule", json=span)
        by_hand = client.create_flow_run_from_deployment(
            deployment, state=Scheduled(scheduled_time=now - timedelta(hours=2))
        )
        due = sorted(
            (run.expected_start_time, run.id)
            for run in client.read_flow_runs()
            if run.auto_scheduled and run.expected_start_time is not None
        )
        assert len(due) == 4
        refused, missed, late = (run_id for _, run_id in due[:3])
        client.set_flow_run_state(refused, Cancelled(), force=True)
        begun = datetime.now(UTC).timestamp()
        client.set_flow_run_state(late, Cancelled(), force=True)
        assert delete_missed("nightly", begun) == [time for time, _ in due[1:]]
        assert states(by_hand.id, late) == [StateType.SCHEDULED, StateType.CANCELLED]
        with pytest.raises(ObjectNotFound):
            client.read_flow_run(missed)

        started = start_deployed(
            "nightly/nightly", f"nightly {OTHER}", {"night": OTHER}, wait_seconds=5.0
        )
        run = client.read_flow_run(UUID(started))
        assert (run.name, run.parameters["night"]) == (f"nightly {OTHER}", OTHER)
        assert not was_cancelled(started)
        for state in (Running(), Cancelling()):
            client.set_flow_run_state(run.id, state, force=True)
        assert was_cancelled(started)


def test_the_heartbeats_are_watched_once() -> None:
    for _ in range(2):
        make_heartbeat_watch()
    with get_client(sync_client=True) as client:
        found = [item for item in client.read_automations() if "heartbeat" in item.name]
    [watch] = found
    assert watch.trigger.within == timedelta(seconds=300)


def test_servers_are_found_and_ended_though_the_file_that_names_them_is_gone(
    checkout: Path,
) -> None:
    from flows.shutdown import ROOT, TAG, find_keeper, living, stop_services

    code = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(90)'])"
    )
    own = psutil.Process(os.getpid())
    tag = f"{GONE}-{own.create_time():.2f}"
    server = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {TAG: tag, ROOT: str(checkout)}
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {TAG: tag + "1", ROOT: "/elsewhere"}
    )
    try:
        keeper = find_keeper(checkout)
        assert keeper is not None
        assert keeper.pid == GONE
        told: list[str] = []
        assert stop_services(checkout, told.append)
        assert living(keeper) == []
        assert server.wait(5) != 0
        assert other.poll() is None
        assert not stop_services(checkout, told.append)
        assert told == []
    finally:
        for process in psutil.Process(other.pid).children():
            process.kill()
        other.kill()
        server.kill()
