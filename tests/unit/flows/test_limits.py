"""A night is bounded: by its time, by what is left of memory and disk, and by what it took last."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows import limits
from flows.limits import NO_ROOM, Room, bounded, check_room, needed
from flows.nightly import _limits
from flows.run_state import NightLog, NightState, StageEntry, night_file, write_night
from flows.workspace import Workspace
from tasks.orchestration.reproduce import NightParams
from tasks.services.processes import TIME_LIMIT, StageError

GB = 10**9


@pytest.fixture
def log(tmp_path: Path) -> NightLog:
    shutil.copytree("params", tmp_path / "params")
    found = NightLog(Workspace(tmp_path, tmp_path, ()), "2026-11-29T023000Z")
    found.plan(["finetuning", "evaluation"])
    found.start("finetuning")
    return found


@pytest.fixture
def params(log: NightLog, tmp_path: Path) -> NightParams:
    return _limits(Workspace(tmp_path, tmp_path, ()))


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LOOK_SECONDS", 0.05)


@pytest.mark.slow
def test_disk_that_others_fill_meanwhile_is_not_the_stages(
    log: NightLog, tmp_path: Path, params: NightParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(90 * GB, 0, -GB))  # somebody writes a GB at each look
    monkeypatch.setattr(Room, "free", lambda _: Room(9 * GB, next(left)))
    with bounded(log, tmp_path, params):
        time.sleep(0.3)
        written = [sys.executable, "-c", "open('rows', 'wb').write(bytes(40_000_000))"]
        subprocess.run(written, cwd=tmp_path, check=True)
    disk = log.now.stages[0].disk_mb
    assert disk is not None
    assert disk < 100


def ended(log: NightLog, folder: Path, bounds: NightParams) -> BaseException | None:
    """What interrupts a night that would take long, as Prefect and `run` let SIGTERM do."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with bounded(log, folder, bounds):
            time.sleep(2.0)
    except KeyboardInterrupt as error:
        return error
    finally:
        signal.signal(signal.SIGTERM, before)
    return None


def test_a_night_within_its_bounds_is_left_alone_and_measured(
    log: NightLog, tmp_path: Path, params: NightParams
) -> None:
    assert ended(log, tmp_path, params) is None
    [entry, later] = log.now.stages
    assert entry.memory_mb is not None
    assert psutil.Process().memory_info().rss / 3e6 < entry.memory_mb
    assert entry.disk_mb is not None
    assert later.memory_mb is None


@pytest.mark.parametrize(
    ("bound", "kind", "verdict", "said"),
    [
        ({"night_hours": 0.1 / 3600}, TIME_LIMIT, "timed_out", "after 2.77778e-05 h"),
        ({"least_disk_gb": 1e9}, NO_ROOM, "failed", "GB of disk were free"),
        ({"least_memory_gb": 1e9}, NO_ROOM, "failed", "GB of memory were free"),
    ],
)
def test_over_a_bound_a_night_is_ended_and_says_why(
    log: NightLog, tmp_path: Path, params: NightParams, bound: Any, kind: str, verdict: str,
    said: str,
) -> None:  # fmt: skip
    error = ended(log, tmp_path, params.model_copy(update=bound))
    assert error is not None
    told = log.fail(error)
    assert (told.kind, log.now.verdict) == (kind, verdict)
    assert "finetuning" in told.message
    assert said in told.message
    assert log.now.stages[0].state == "failed"


def test_a_night_that_does_not_end_when_it_is_told_to_is_killed_its_verdict_written(
    log: NightLog, tmp_path: Path, params: NightParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(limits, "_STUCK_SECONDS", 0.2)
    fake = SimpleNamespace(getpid=os.getpid, kill=lambda _, number: sent.append(number))
    monkeypatch.setattr(limits, "os", fake)
    with bounded(log, tmp_path, params.model_copy(update={"night_hours": 1e-6})):
        time.sleep(1.0)
    assert sent == [signal.SIGTERM, signal.SIGKILL]
    assert log.now.verdict == "timed_out"


def earlier(checkout: Path, name: str, entries: list[StageEntry], workspace: str) -> None:
    night = NightState(
        night=name, verdict="promoted", stages=entries, workspace=workspace, pid=os.getpid()
    )
    write_night(night_file(checkout, name), night)


def took(name: str, memory: int | None, disk: int | None, state: Any = "executed") -> StageEntry:
    return StageEntry(name=name, state=state, memory_mb=memory, disk_mb=disk)


def test_what_a_night_needs_is_what_each_stage_took_when_it_last_ran_there(
    log: NightLog, tmp_path: Path
) -> None:
    here, there = str(tmp_path), "/elsewhere"
    earlier(
        tmp_path,
        "2026-11-26T023000Z",
        [took("finetuning", 9000, 500), took("evaluation", 4000, 100)],
        here,
    )
    earlier(
        tmp_path,
        "2026-11-27T023000Z",
        [took("finetuning", 6000, 300), took("evaluation", 90, 0, "skipped")],
        here,
    )
    earlier(tmp_path, "2026-11-28T023000Z", [took("finetuning", 64000, 9000)], there)
    found = needed(tmp_path, here, ["finetuning", "evaluation", "packaging"])
    assert found == Room(6000e6, 400e6)
    assert needed(tmp_path, here, ["packaging"]) == Room(0, 0)


@pytest.mark.parametrize(("what", "short"), [("memory", Room(1 * GB, 90 * GB)),
                                             ("disk", Room(90 * GB, 1 * GB))])  # fmt: skip
def test_a_build_for_which_there_is_no_room_does_not_begin(
    log: NightLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, short: Room
) -> None:
    earlier(tmp_path, "2026-11-26T023000Z", [took("finetuning", 9000, 8000)], log.now.workspace)
    monkeypatch.setattr(Room, "free", lambda _: short)
    with pytest.raises(StageError, match=f"GB of {what} are needed for finetuning") as caught:
        check_room(tmp_path, log.now, ["finetuning", "evaluation"], 1.0)
    assert "room in params/night.yaml" in caught.value.remedy
    check_room(tmp_path, log.now, ["evaluation"], 1.0)  # nothing is known of it
    check_room(tmp_path, log.now, ["finetuning"], 0.05)
    check_room(tmp_path, log.now, ["finetuning"], 0.0)
