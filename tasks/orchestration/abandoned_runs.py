"""Runs in MLflow that stayed RUNNING though the process that wrote them is gone: closed."""

from collections.abc import Collection

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tasks.services import run_tags
from tasks.services.processes import is_gone
from tasks.services.stores import EXPERIMENT, Stores, retrying_client


def close_runs(stores: Stores, nights: Collection[str], *, idle: bool) -> list[str]:
    """Close the abandoned runs of nights, stages and sweeps as failed; return their names.

    `nights` are runs of nights whose process is known to be gone. `idle`: nothing runs in this
    checkout, so that in its own store no run is written. A run of an older Nightloom says not
    which process writes it. Runs of other machines are left alone.
    """
    client = retrying_client(MlflowClient, stores.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    is_ours = idle and stores.artifacts is not None
    closed = []
    for run in _running(client, experiment.experiment_id):
        if _is_abandoned(run, nights, is_ours=is_ours):
            client.set_terminated(run.info.run_id, "FAILED")
            closed.append(str(run.info.run_name))
    return closed


def _running(client: MlflowClient, experiment: str) -> list[Run]:
    """Return every run that says that it runs."""
    found: list[Run] = []
    page = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    found += page
    while page.token:
        page = client.search_runs(
            [experiment], "attributes.status = 'RUNNING'", page_token=page.token
        )
        found += page
    return found


def _is_abandoned(run: Run, nights: Collection[str], *, is_ours: bool) -> bool:
    tags = run.data.tags
    if {run.info.run_id, tags.get(run_tags.PARENT)} & set(nights):
        return True
    process = tags.get(run_tags.PROCESS)
    return is_ours if process is None else is_gone(process)
