"""Where the numbers and models of the nights are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPERIMENT = "nightloom"


@dataclass(frozen=True)
class Stores:
    """An MLflow tracking URI, and where our own store keeps artifacts.

    `artifacts` is None where somebody else's server decides. The store of a checkout names one
    folder, whether it is opened embedded or through a server on the same machine.
    """

    tracking_uri: str
    artifacts: Path | None


@dataclass(frozen=True)
class RunRef:
    """One MLflow run."""

    experiment_id: str
    run_id: str


def open_experiment(client: Any, name: str, artifacts: Path | None) -> str:
    """The id of an experiment, made where it is missing.

    Another process may make it meanwhile; or we did, and the answer was lost. `client` is MLflow's.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if artifacts is None else artifacts.resolve().as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    return str(found.experiment_id)
