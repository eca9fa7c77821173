"""Prefect's flow runs as people find them: by a name that says what they are, and by tags."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.runtime import flow_run
from prefect.states import Crashed, Scheduled
from prefect.types import DateTime

# All that Nightloom runs.
FLOWS = ("nightly", "build", "release", "approve", "sweep", "evaluation-full")

_HEARTBEATS = "nightloom: flow runs without a heartbeat"
# Ten heartbeats; a laptop that wakes up must have sent one before this is looked at.
_SILENT_SECONDS = 300

_LOOK_SECONDS = 1.0
_OPEN = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
_OVER = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]


def name_run(name: str) -> None:
    """Name the flow run that this process runs."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(str(flow_run.id)), name=name)


def tag_run(tags: Iterable[str]) -> None:
    """Add tags to the flow run that this process runs."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(str(flow_run.id)))
        client.update_flow_run(run.id, tags=sorted({*run.tags, *tags}))


@dataclass(frozen=True)
class Planned:
    """A deployment's active schedules, as people read them, its next start and its late runs."""

    schedules: tuple[str, ...]
    next: datetime | None
    late: int


def read_schedule(deployment: str) -> Planned:
    """Return what a deployment's schedules plan; nothing where there is none, or it is paused."""
    by_name = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
    scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    late = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"]))
    with get_client(sync_client=True) as client:
        found = client.read_deployments(deployment_filter=by_name)
        runs = client.read_flow_runs(
            deployment_filter=by_name, flow_run_filter=FlowRunFilter(state=scheduled)
        )
        waiting = client.read_flow_runs(
            deployment_filter=by_name, flow_run_filter=FlowRunFilter(state=late)
        )
    active = [
        _told_schedule(item.schedule)
        for one in found
        if not one.paused
        for item in one.schedules
        if item.active
    ]
    starts = [run.expected_start_time for run in runs if run.expected_start_time is not None]
    return Planned(tuple(active), min(starts, default=None), len(waiting))


def _told_schedule(schedule: object) -> str:
    """Return a schedule as people read it: its cron line and zone, or what else it is."""
    cron, zone = getattr(schedule, "cron", None), getattr(schedule, "timezone", None)
    return f"{cron} ({zone or 'UTC'})" if cron else str(schedule)


def name_scheduled_runs(
    deployment: str, name: Callable[[datetime], str], *, wait_seconds: float = 0.0
) -> list[str]:
    """Name the runs that a deployment's schedule has made, by when they are to start.

    Prefect's scheduler makes them some days ahead, under random names. Nothing can tell it a name,
    so this is called again from time to time. Wait so long for the first of them; return the names.
    """
    deadline = time.monotonic() + wait_seconds
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment])),
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(
                        type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])
                    )
                ),
            )
            if runs or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_SECONDS)
        wanted = {
            run.id: name(run.expected_start_time)
            for run in runs
            if run.auto_scheduled and run.expected_start_time is not None
        }
        for run in runs:
            if run.name != wanted.get(run.id, run.name):
                client.update_flow_run(run.id, name=wanted[run.id])
    return sorted(wanted.values())


def crash_abandoned(
    *,
    alive: Collection[str],
    ended: Collection[str],
    begun_before: float | None,
    pending_seconds: float,
) -> list[FlowRun]:
    """Crash the flow runs that no process runs, with their task runs; return them as they are now.

    That gives back their slots. A run is one of them if its night, the last word of its name, is
    among `ended`; or if it began before any process that may run one, or no such process lives
    (None). Those of `alive`, ids, are left, and what waits for its process less than
    `pending_seconds`.

    Task runs whose flow run is over crash too: a process that says how its flow run ended may be
    killed before it says so of them.
    """
    closed = []
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN))
            ),
        )
        for run in runs:
            of_ended = run.name.split()[-1] in ended
            if str(run.id) in alive or _is_young(run, pending_seconds):
                continue
            if of_ended or begun_before is None or _begun(run).timestamp() < begun_before:
                _crash(client, run)
                closed.append(client.read_flow_run(run.id))
        over = FlowRunFilterState(type=FlowRunFilterStateType(any_=_OVER))
        _crash_tasks(client, FlowRunFilter(state=over), alive)
    return closed


def runs_of(flow: str, runs: Iterable[FlowRun]) -> list[FlowRun]:
    """Return those of some flow runs that are of a flow, and that a deployment started."""
    with get_client(sync_client=True) as client:
        named = FlowFilter(name=FlowFilterName(any_=[flow]))
        ids = {found.id for found in client.read_flows(flow_filter=named)}
    return [run for run in runs if run.flow_id in ids and run.deployment_id is not None]


def _begun(run: FlowRun) -> datetime:
    """Return when a run began, or was made if it has not."""
    return run.start_time or run.created or datetime.now(UTC)


def _is_young(run: FlowRun, seconds: float) -> bool:
    """Return whether a run became pending just now."""
    if run.state is None or run.state.type != StateType.PENDING:
        return False
    return datetime.now(UTC) - run.state.timestamp < timedelta(seconds=seconds)


def _crash(client: Any, run: FlowRun) -> None:
    """End a run and its tasks; `client` is Prefect's."""
    _crash_tasks(client, FlowRunFilter(id=FlowRunFilterId(any_=[run.id])), alive=())
    client.set_flow_run_state(run.id, _gone(), force=True)


def _crash_tasks(client: Any, runs: FlowRunFilter, alive: Collection[str]) -> None:
    """End the open task runs of some flow runs, but for those that are alive."""
    tasks = client.read_task_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
        flow_run_filter=runs,
        task_run_filter=TaskRunFilter(
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN))
        ),
    )
    for task in tasks:
        if str(task.flow_run_id) not in alive:
            client.set_task_run_state(task.id, _gone(), force=True)


def _gone() -> State[Any]:
    return Crashed(message="its process ended without a word")


def delete_missed(deployment: str, since: float) -> list[datetime]:
    """Delete the runs that a schedule planned and nothing started; return when they were due.

    Call it while no worker runs, which would start them all. Those count as well that the server
    cancelled since it started, at `since` in seconds since 1970: it does so with a late run while
    an abandoned one holds the slot.
    """
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(
                    type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.CANCELLED])
                ),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=DateTime.now(UTC)),
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
        missed = []
        for run in runs:
            if not run.auto_scheduled or run.run_count or run.expected_start_time is None:
                continue
            if run.state_type == StateType.SCHEDULED:
                client.delete_flow_run(run.id)
                missed.append(run.expected_start_time)
            elif run.state is not None and run.state.timestamp.timestamp() >= since:
                missed.append(run.expected_start_time)
    return sorted(missed)


def was_cancelled(run_id: str) -> bool:
    """Return whether somebody cancelled a flow run in Prefect; no if it is not there any more."""
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(run_id))
    return any(state.type == StateType.CANCELLING for state in states)


def start_deployed(
    deployment: str, name: str, parameters: dict[str, Any], *, wait_seconds: float
) -> str:
    """Let a worker start a run of `FLOW/NAME` in some seconds, under a name; return its id."""
    start = datetime.now(UTC) + timedelta(seconds=wait_seconds)
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        run = client.create_flow_run_from_deployment(
            found.id, name=name, parameters=parameters, state=Scheduled(scheduled_time=start)
        )
    return str(run.id)


def make_heartbeat_watch() -> None:
    """Let the server crash flow runs whose heartbeats stay away, also of workers elsewhere."""
    watch = AutomationCore(
        name=_HEARTBEATS,
        description="A flow run that sends no heartbeat any more has lost its process.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=_SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message="no heartbeat came any more",
                force=False,
            )
        ],
    )
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(_HEARTBEATS):
            client.create_automation(watch)
