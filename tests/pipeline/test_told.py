"""The nightly flow itself tells how it ended, once, whatever ended it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Late, Scheduled

from flows import nightly as nights
from flows.endings import notify_endings
from flows.run_state import NightLog, night_file, read_night
from flows.workspace import Workspace
from tasks.orchestration.flow_runs import Planned, read_schedule
from tasks.orchestration.notify import Verdict
from tasks.services.processes import TIME_LIMIT, StageError
from tasks.stage.errors import DataError
from tests.builders.listener import Listener, listener
from tests.builders.notified import VARIABLE, told, write_params
from tests.builders.prefect_server import prefect_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with prefect_server(tmp_path_factory):
        yield


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with listener() as found:
        monkeypatch.setenv(VARIABLE, found.url())
        yield found


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stores are never opened."""
    write_params(tmp_path)
    for name in ("prefect.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("{}\n")
    shutil.copy2("params/night.yaml", tmp_path / "params")
    monkeypatch.setattr(nights, "open_checkout", lambda root: tmp_path)
    monkeypatch.setattr(nights, "clean_up", lambda workspace: None)
    return tmp_path


def ends_as(verdict: Verdict) -> Callable[..., None]:
    def run(workspace: Workspace, log: NightLog, *, only_release: bool) -> None:
        log.begin("done")
        log.now.verdict = verdict
        log.now.reasons = ["nothing new"]
        log.write()

    return run


def raises(error: BaseException) -> Callable[..., None]:
    def run(*words: Any, **named: Any) -> None:
        raise error

    return run


def test_doctor_is_told_schedules_the_next_start_and_late_runs() -> None:
    assert read_schedule("nightly") == Planned((), None, 0)
    start = datetime(2099, 1, 1, 2, 30, tzinfo=UTC)
    with get_client(sync_client=True) as client:
        flow = client.create_flow(nights.nightly)
        crons = [("30 2 * * *", True), ("0 5 * * *", False)]
        schedules = [
            DeploymentScheduleCreate(
                schedule=CronSchedule(cron=cron, timezone="Asia/Seoul"), active=active
            )
            for cron, active in crons
        ]
        made = client.create_deployment(flow, "nightly", schedules=schedules)
        for state in (Scheduled(scheduled_time=start), Late(scheduled_time=start)):
            client.create_flow_run_from_deployment(made, state=state)
    assert read_schedule("nightly") == Planned(("30 2 * * * (Asia/Seoul)",), start, 1)


@pytest.mark.parametrize(
    ("work", "verdict"),
    [
        (ends_as("promoted"), "promoted"),
        (ends_as("partly_promoted"), "partly_promoted"),
        (ends_as("refused"), "refused"),
        (ends_as("unchanged"), "unchanged"),
        (raises(DataError("a row is bad", "mend it")), "failed"),
        (raises(MemoryError()), "failed"),
        (raises(StageError("finetuning: after 24 h", "raise it", TIME_LIMIT)), "timed_out"),
        (raises(KeyboardInterrupt()), "cancelled"),
    ],
)
def test_each_ending_of_the_flow_is_told_once(
    checkout: Path,
    hook: Listener,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[..., None],
    verdict: str,
) -> None:
    monkeypatch.setattr(nights, "_run", work)
    nights.nightly(root=str(checkout), night="n1", return_state=True)
    assert told(hook) == [(verdict, "n1")]
    kept = read_night(night_file(checkout, "n1"))
    assert [telling.verdict for telling in kept.told or []] == [kept.verdict] == [verdict]
    assert notify_endings(checkout) == {}


def test_a_channel_that_fails_changes_nothing_of_the_night(
    checkout: Path, hook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.status = 500
    monkeypatch.setattr(nights, "_run", ends_as("promoted"))
    state: Any = nights.nightly(root=str(checkout), night="n1", return_state=True)
    assert (state.is_completed(), state.name) == (True, "Promoted")
    [telling] = read_night(night_file(checkout, "n1")).told or []
    assert telling.channels == {"hook": "it answered 500"}
    (checkout / "params" / "notify.yaml").write_text("{")
    state = nights.nightly(root=str(checkout), night="n2", return_state=True)
    assert state.is_completed()


def test_a_flow_that_failed_before_its_night_began_is_told(checkout: Path, hook: Listener) -> None:
    state: Any = nights.nightly(
        root=str(checkout), night="n1", overrides=["finetuning.epoch=2"], return_state=True
    )
    assert state.is_failed()
    assert told(hook) == [("failed", "n1")]
    assert "ConfigError" in hook.asked[0].json["headline"]
    assert "finetuning.epoch" in hook.asked[0].json["headline"]


def test_a_night_beside_one_that_runs_is_told_and_the_other_one_is_not(
    checkout: Path, hook: Listener
) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom flows.run_state import NightLog\n"
        "from flows.workspace import Workspace, night_lock\nroot = Path(sys.argv[1])\n"
        "with night_lock(root / '.nightloom' / 'night.lock'):\n"
        " NightLog(Workspace(root, root, ()), 'n0').write()\n"
        " print('held', flush=True)\n sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(checkout)],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        state: Any = nights.nightly(root=str(checkout), night="n1", return_state=True)
        assert state.is_failed()
        assert told(hook) == [("failed", "n1")]
        assert "a night is running here already" in hook.asked[0].json["headline"]
        assert notify_endings(checkout) == {}
        holder.kill()
    assert list(notify_endings(checkout)) == ["n0"]
    assert told(hook)[1:] == [("crashed", "n0")]
