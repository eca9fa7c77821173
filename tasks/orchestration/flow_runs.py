"""Prefect's flow runs as people find them: by a name that says what they are, and by tags."""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
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
