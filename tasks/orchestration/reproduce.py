"""One stage of the graph, reproduced by DVC in a child process."""

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
from pydantic import Field

from tasks.orchestration.publish import CurvePublisher, link_pages
from tasks.orchestration.stages import Stage, StageOutcome, StageState
from tasks.orchestration.tracking import DataSet, Point, Tracker
from tasks.services.processes import (
    TIME_LIMIT,
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
    limit_hours: float,
    watch: StopCondition | None = None,
    remote: bool = False,
) -> State[StageOutcome]:
    """Reproduce a stage: Completed, and named Skipped if nothing was to be done.

    It is ended after `limit_hours`. What another machine made of the same comes from the `remote`.

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
        state = _repro(stage, root, scratch, run, tracker, limit_hours, watch, remote)
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
    limit_hours: float,
    watch: StopCondition | None,
    remote: bool,
) -> StageState:
    """Return whether DVC executed the stage or restored its outs.

    Raises:
        StageError: it failed, or took longer than its time limit.
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
        child = run_child(command, root, on_line, limit_seconds=limit_hours * 3600)
    if child.is_late:
        raise StageError(
            f"{stage.name}: it was ended after {limit_hours:g} h, the limit in params/night.yaml",
            "raise stage_hours, or ask the stage for less; the next night goes on from its "
            "checkpoint",
            TIME_LIMIT,
        )
    if child.code != 0:
        raise stage_error(stage.name, left_failure(scratch, child))
    if any(line.startswith(_RAN) for line in child.lines):
        return "executed"
    if any(text in line for line in child.lines for text in _RESTORED):
        return "restored"
    return "skipped" if any(_CURRENT in line for line in child.lines) else "executed"


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
