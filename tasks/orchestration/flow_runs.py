"""Prefect's flow runs as people find them: by a name that says what they are, and by tags."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run

_LOOK_SECONDS = 1.0


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
