"""The flow that lets `production` name an earlier version again, as `nightloom rollback` does."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.environment import open_checkout
from flows.parameters import Reason, Signature
from flows.promoter import bring_back
from tasks.records.schema import ServedModel


@flow(name="rollback", flow_run_name="rollback {model}", persist_result=False)
def rollback(
    reason: Reason,
    by: Signature,
    model: ServedModel = "adapter",
    to: int | None = None,
    root: str = ".",
) -> State[Any]:
    """Return Completed once the version answered as it did and is in production again.

    Args:
        reason: Why; the ledger keeps it.
        by: Who decides.
        model: The adapter or its student.
        to: A version that was in production. The default is the one that was there last.
        root: A folder of the project. The default is the one that the worker runs in.

    Raises:
        ConfigError: there is no way back, or production is another one by now.
        DataError: the old bundle is not as it was registered.
        GateError: it does not answer as recorded.
    """
    checkout = open_checkout(Path(root))
    entry = bring_back(checkout, model, to, by=by.strip(), reason=reason.strip())
    number = entry.after["production"]
    return Completed(name="Rolled back", message=f"{model} version {number} is in production again")
