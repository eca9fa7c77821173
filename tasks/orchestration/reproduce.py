"""One stage of the graph, reproduced by DVC in a child process."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field, model_validator

from tasks.orchestration.publish import CurvePublisher, link_pages
from tasks.orchestration.stages import Stage, StageOutcome, StageState
from tasks.orchestration.tracking import DataSet, Point, Tracker
from tasks.services.processes import (
    TIME_LIMIT,
    ChildResult,
    Silence,
    StageError,
    left_failure,
    run_child,
    stage_error,
)
from tasks.services.stores import RunRef
from tasks.stage.errors import DeviceError
from tasks.stage.params import StageParams

# Whether a point of a stage's curves, the stage's name first, says that it should stop.
StopCondition = Callable[[str, Point], bool]

_RAN = "Running stage"
_RESTORED = ("is cached - skipping run", "Pulling data for stage")
_CURRENT = "didn't change, skipping"


class NightParams(StageParams):
    """`params/night.yaml`."""

    stage_hours: float = Field(gt=0, le=336, description="after which a stage is ended")
    silent_minutes: float = Field(gt=0, le=10080, description="without a sign of life, likewise")
    night_hours: float = Field(gt=0, le=672, description="after which a night is ended")
    run_again: bool = Field(description="a night that was interrupted, once, by itself")
    run_missed: bool = Field(description="one night as `up` starts, if any was missed")
    least_disk_gb: float = Field(ge=0, description="free; with less a night is ended")
    least_memory_gb: float = Field(ge=0, description="available; with less a night is ended")
    room: float = Field(
        ge=0, le=10, description="of what the last night took, that must be free before a build"
    )

    @model_validator(mode="before")
    @classmethod
    def _says_what_is_new(cls, content: Any) -> Any:
        """Say in one error what a file of before 0.3 lacks, which had a stage's limit alone."""
        if isinstance(content, dict) and list(content) == ["stage_hours"]:
            added = ", ".join(name for name in cls.model_fields if name not in content)
            raise ValueError(
                f"it is of before 0.3 and holds stage_hours alone: {added} are written beside it, "
                "as docs/reference/params.md shows"
            )
        return content


class StageStoppedError(Exception):
    """A stage was stopped by who watched its curves."""


def _is_device_error(task_: Any, run: Any, state: State[Any]) -> bool:
    """Return whether a failed stage is worth another try."""
    try:
        state.result()
    except DeviceError:
        return True
    except BaseException:  # noqa: BLE001  whatever else it was is raised by the task itself
        return False
    return False


@task(
    task_run_name="{stage.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=_is_device_error,
)
def reproduce(
    stage: Stage,
    root: Path,
    scratch: Path,
    night: RunRef,
    tracker: Tracker,
    limits: NightParams,
    watch: StopCondition | None = None,
    remote: bool = False,
    check: Callable[[], None] = lambda: None,
) -> State[StageOutcome]:
    """Reproduce a stage: Completed, and named Skipped if nothing was to be done.

    It is ended after its time limit, and after too long without a sign of life. What another
    machine made of the same comes from the `remote`. `check` raises where what DVC recorded of it
    can't stay.

    Raises:
        StageStoppedError: `watch` asked for it.
        NightloomError: the stage failed; its last good outs are back in place.
    """
    logger = get_run_logger()
    if stage.current:
        tracker.link_stage(night, stage)
        logger.info("%s is current", stage.name)
        return Completed(name="Skipped", data=StageOutcome(stage.name, "skipped", 0.0))
    run = tracker.begin_stage(night, stage)
    begun = time.monotonic()
    try:
        state = _repro(stage, root, scratch, run, tracker, limits, watch, remote)
        check()
    except StageStoppedError:
        _bring_back(stage, root)
        tracker.stop(run)
        raise
    except BaseException:
        _bring_back(stage, root)
        tracker.log_files(run, _small_files(scratch), "scratch")
        link_pages(stage.name, scratch, "scratch", run, tracker)
        tracker.end(run, finished=False)
        raise
    _log_results(stage, root, run, tracker)
    outcome = StageOutcome(stage.name, state, time.monotonic() - begun)
    logger.info("%s %s in %.1f s", stage.name, state, outcome.seconds)
    return Completed(name=state.capitalize(), data=outcome)


def _repro(
    stage: Stage,
    root: Path,
    scratch: Path,
    run: RunRef,
    tracker: Tracker,
    limits: NightParams,
    watch: StopCondition | None,
    remote: bool,
) -> StageState:
    """Return whether DVC executed the stage or restored its outs.

    Raises:
        StageError: it failed, took longer than its time limit, or gave no sign of life.
    """
    logger = get_run_logger()
    (scratch / "failure.json").unlink(missing_ok=True)
    stop = threading.Event()

    def publish(points: list[Point]) -> None:
        tracker.log_points(run, points)
        if watch is not None and any([watch(stage.name, point) for point in points]):
            stop.set()

    def on_line(line: str) -> None:
        logger.info("%s", line)
        if stop.is_set():
            raise StageStoppedError(stage.name)

    options = ["--single-item", *(["--pull"] if remote else []), stage.name]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *options]
    with tracker.system_metrics(run), CurvePublisher(scratch, publish, logger.warning):
        child = run_child(
            command,
            root,
            on_line,
            limit_seconds=limits.stage_hours * 3600,
            silence=Silence(limits.silent_minutes * 60, lambda: changes(scratch)),
        )
    if child.is_late or child.is_silent:
        raise _ended_by_limit(stage, child, limits)
    if child.code != 0:
        raise stage_error(stage.name, left_failure(scratch, child))
    if any(line.startswith(_RAN) for line in child.lines):
        return "executed"
    if any(text in line for line in child.lines for text in _RESTORED):
        return "restored"
    return "skipped" if any(_CURRENT in line for line in child.lines) else "executed"


def _ended_by_limit(stage: Stage, child: ChildResult, limits: NightParams) -> StageError:
    """Return why a stage was ended before it was done."""
    goes_on = "; the next night goes on from its checkpoint"
    if child.is_late:
        return StageError(
            f"{stage.name}: it was ended after {limits.stage_hours:g} h, the limit in "
            "params/night.yaml",
            f"raise stage_hours, or ask the stage for less{goes_on}",
            TIME_LIMIT,
        )
    return StageError(
        f"{stage.name}: it was ended after {limits.silent_minutes:g} min without a sign of life, "
        "the limit in params/night.yaml: it printed nothing, and wrote nothing into its folder in "
        f"data/scratch; it printed last:\n{child.last_lines}",
        f"see whether a disk or a device hangs, or raise silent_minutes{goes_on}",
        TIME_LIMIT,
    )


def changes(folder: Path) -> int:
    """Return a number that is another one once anything below a folder has changed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in (".", *names):
            with contextlib.suppress(FileNotFoundError):  # it was replaced meanwhile
                total += Path(place, name).lstat().st_mtime_ns
    return total


def _bring_back(stage: Stage, root: Path) -> None:
    """Let DVC put the stage's last good outs back, which it removed when the stage started."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--force", stage.name]
    child = run_child(command, root)
    if child.code != 0:
        told = " | ".join(child.lines[-3:])
        get_run_logger().warning("no earlier outs of %s came back: %s", stage.name, told)


def _small_files(scratch: Path) -> list[Path]:
    """Return what a failed stage left for people to read: files, not checkpoints and memos."""
    return sorted(path for path in scratch.glob("*") if path.is_file())


def _log_results(stage: Stage, root: Path, run: RunRef, tracker: Tracker) -> None:
    """Log what a stage was made from and what it reports, and close its run."""
    tracker.log_params(run, root, stage.params)
    data = [
        DataSet(item.path, item.digest, item.path, "input", {})
        for item in stage.dependencies
        if item.path.startswith("data/")
    ]
    tracker.log_inputs(run, data)
    for report in stage.reports:
        tracker.log_metrics(run, root / report)
        tracker.log_predictions(run, root / report)
        tracker.log_files(run, [root / report])
        link_pages(stage.name, root / report, Path(report).name, run, tracker)
    tracker.end(run, finished=True)
