"""The flow that asks a person: it pauses in Prefect's UI until somebody answers, or time is up."""

import time
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Running
from pydantic import Field, ValidationError, create_model

from flows.environment import find_stores, open_checkout
from flows.parameters import SIGNATURE, LedgerHash
from flows.promoter import Promoter, make_promoter
from tasks.orchestration.flow_runs import name_run
from tasks.orchestration.mlflow_pages import run_page
from tasks.orchestration.release import approval_run_name, ask_for_approval
from tasks.orchestration.tracking import Tracker
from tasks.registry.approval import ApprovalRequest, ApprovalResponse, read_request, settle
from tasks.registry.ledger import Entry
from tasks.services.stores import RunRef

_LOOK_SECONDS = 5

_NAMES = {"approved": "Approved", "rejected": "Rejected", "expired": "NotPromoted"}


class Approval(RunInput):
    """What a person says: the number of the version repeats what it is about."""

    decision: Literal["approve", "reject"] = Field(description="approve or reject")
    version: int = Field(description="the number of the version that you decide about")
    by: str = Field(pattern=SIGNATURE, max_length=100, description="your name")
    reason: str = Field(pattern=SIGNATURE, max_length=600, description="why; the ledger keeps it")


@flow(name="approve", persist_result=False)
def approve(entry: LedgerHash, root: str = ".") -> State[Any]:
    """Return Completed, named after the answer: Approved, Rejected or NotPromoted.

    Args:
        entry: The hash of the ledger's entry that asks, as `nightloom ledger --json` shows it.
        root: A folder of the project. The default is the one that the worker runs in.

    Raises:
        ConfigError: there is no such question.
        GateError: an alias was moved while the answer was carried out.
    """
    checkout = open_checkout(Path(root))
    promoter = make_promoter(checkout)
    question = read_request(promoter.ledger, entry)
    get_run_logger().info("%s %s", question.text, entry)
    name_run(approval_run_name(question.link.entry))
    answer = _wait_for_answer(promoter, question, _description(checkout, question))
    with promoter.lock.held():
        found = settle(promoter.ledger, question, answer, promoter.params, promoter.downloads)
    if found.awaits is not None:
        ask_for_approval(question.version.model, promoter.ledger, shared=promoter.lock.shared)
    return Completed(name=_NAMES[found.kind], message=_told(question, found))


def _wait_for_answer(
    promoter: Promoter, question: ApprovalRequest, description: str
) -> ApprovalResponse:
    """Return what a person answered, or that nobody did in time."""
    hours = promoter.params.approval_hours
    deadline = time.monotonic() + hours * 3600
    # Prefect's server holds a form to its schema: another version's number does not fit.
    number: Any = Literal[question.version.number]
    version = (number, Field(description="this version's number"))
    form = create_model("Approval", __base__=Approval, version=version)
    for attempt in range(1, 1000):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            said = pause_flow_run(
                wait_for_input=form.with_initial_data(description=description),
                timeout=max(1, round(left)),
                poll_interval=_LOOK_SECONDS,
                key=f"approval-{attempt}",
            )
        except FlowPauseTimeout:
            break
        except ValidationError as error:
            get_run_logger().warning("refused, asked again: the answer does not fit: %s", error)
            continue
        return ApprovalResponse(said.decision, said.by.strip(), said.reason.strip())
    _wake()
    return ApprovalResponse("expire", "nightloom", f"nobody answered within {hours:g} hours")


def _wake() -> None:
    """Let the run go on: Prefect's server makes any end of a pause that is over a failure."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(str(flow_run.id)), Running(), force=True)


def _description(checkout: Path, question: ApprovalRequest) -> str:
    """Return what is asked, with what speaks for it, in Markdown."""
    entry = question.link.entry
    tracker = Tracker(find_stores(checkout))
    run = RunRef(tracker.experiment, question.version.run_id)
    link = tracker.link(run_page(run))
    report = f"[the night's page]({link})" if link else f"MLflow run {run.run_id}"
    lines = [f"## {question.text}", "", f"It was compared with {question.champion}: {report}.", ""]
    lines += [f"- {reason}" for reason in entry.reasons]
    lines += ["", f"The ledger's entry {entry.number}, `{question.link.sha256}`."]
    return "\n".join(lines)


def _told(question: ApprovalRequest, entry: Entry) -> str:
    return f"{question.text} {entry.kind} by {entry.by}: {entry.reason}"
