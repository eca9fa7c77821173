"""Flow runs as `nightloom up` finds them: open questions are asked again, scheduled runs named."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Crashed

from flows.approve import approve
from flows.environment import open_checkout
from flows.nightly import name_scheduled_nights
from flows.promoter import make_promoter
from tasks.orchestration.release import ask_for_approval
from tasks.registry.approval import expire_old
from tasks.registry.versions import MODELS
from tasks.stage.errors import NightloomError

_SCHEDULER_SECONDS = 15.0  # Prefect's looks at new deployments every 5

_UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


def ask_again(checkout: Path) -> list[str]:
    """Return a sentence on what became of each question that nobody has answered.

    Call it while no worker runs: a flow run that waits for an answer then waits in no process, and
    an answer given to it would reach nobody.
    """
    promoter = make_promoter(checkout)
    ledger, params, downloads = promoter.ledger, promoter.params, promoter.downloads
    with promoter.lock.held():
        told = [text for model in MODELS for text in expire_old(ledger, model, params, downloads)]
    _end_abandoned()
    shared = promoter.lock.shared
    return told + [
        text for model in MODELS for text in ask_for_approval.fn(model, ledger, shared=shared)
    ]


def _end_abandoned() -> None:
    """End the flow runs that a worker had begun and that no process holds any more."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[approve.name])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED))
            ),
        )
        for run in runs:
            gone: State[Any] = Crashed(
                message="the worker that waited for the answer is gone; asked again"
            )
            client.set_flow_run_state(run.id, gone, force=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 with what became of each question on stdout, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m flows.open_approvals", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="a folder of the project")
    options = parser.parse_args(arguments)
    try:
        told = ask_again(open_checkout(options.root))
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for text in told:
        print(text)
    name_scheduled_nights(wait_seconds=_SCHEDULER_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
