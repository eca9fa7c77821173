"""The build: one task a node of the graph, in order; what is current is skipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import flow, get_run_logger

from flows.graph import has_remote, read_current, read_stage, stage_names
from flows.limits import check_room
from flows.run_state import NightLog
from flows.stage_records import check_unchanged, note_begin, undo_unchecked
from flows.workspace import Workspace
from tasks.orchestration.reproduce import NightParams, StopCondition, reproduce
from tasks.orchestration.stages import StageOutcome
from tasks.orchestration.tracking import Tracker
from tasks.services.stores import RunRef
from tasks.stage.params import StageParams, load_params


class _Params(StageParams):
    night: NightParams


@dataclass(frozen=True)
class Build:
    """How every stage went."""

    outcomes: tuple[StageOutcome, ...]

    @property
    def summary(self) -> str | None:
        """Return what to say of a build in which no stage ran, None if one did."""
        states = {outcome.state for outcome in self.outcomes}
        if "executed" in states:
            return None
        if "restored" in states:
            return "no stage had to run: what changed was in DVC's cache from an earlier night"
        return "no stage had to run: data, params and code are as before"


@flow(
    name="build",
    flow_run_name="build {log.now.night}",
    validate_parameters=False,
    persist_result=False,
)
def build(workspace: Workspace, log: NightLog, night: RunRef, tracker: Tracker) -> Build:
    """Run the stages that are not current, and return how each went.

    Raises:
        NightloomError: a stage failed; those after it were not run.
    """
    return Build(build_stages(workspace, stage_names(workspace.path), log, night, tracker))


def build_stages(
    workspace: Workspace,
    names: Sequence[str],
    log: NightLog,
    parent: RunRef,
    tracker: Tracker,
    *,
    watch: StopCondition | None = None,
) -> tuple[StageOutcome, ...]:
    """Run the named stages in order, each of which `watch` may stop by its curves.

    Return how each went.

    Raises:
        NightloomError: a stage failed, or what it depends on changed while it ran.
    """
    scratch = workspace.path / workspace.paths().scratch
    params = load_params(_Params, [workspace.path / "params" / "night.yaml"]).night
    remote = has_remote(workspace.path)
    log.plan(names)
    for told in filter(None, (undo_unchecked(workspace.path, name) for name in names)):
        get_run_logger().warning("%s", told)
    current = read_current(workspace.path, names)
    outcomes, looked = [], False
    for place, name in enumerate(names):
        log.start(name)
        stage = current.get(name) or read_stage(workspace.path, name)
        if not stage.current:
            if not looked:
                check_room(workspace.checkout, log.now, names[place:], params.room)
                looked = True
            note_begin(workspace.path, stage)
        check = partial(check_unchanged, workspace.path, stage)
        # Typed by hand: a task that returns a state has that state's data as its result.
        state: Any = reproduce(
            stage, workspace.path, scratch / name, parent, tracker, params, watch, remote, check,
            return_state=True,
        )  # fmt: skip
        outcome: StageOutcome = state.result()
        log.finish(outcome)
        outcomes.append(outcome)
    return tuple(outcomes)
