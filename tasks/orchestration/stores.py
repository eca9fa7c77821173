"""Where the numbers and models of the nights are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

EXPERIMENT = "nightloom"
LEDGER = "nightloom-ledger"


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


def local_path(location: str) -> Path | None:
    """The path that MLflow reads and writes for an artifact location.

    None where that is at a server, in a bucket, or counts from the folder that a command is run in.
    """
    if not location.startswith(("file:", "/")):
        return None
    path = urlsplit(location).path if location.startswith("file:") else location
    return Path(url2pathname(path))  # MLflow decodes the escapes of plain paths too


def open_experiment(client: Any, name: str, artifacts: Path | None) -> str:
    """The id of an experiment, made where it is missing.

    Another process may make it meanwhile; or we did, and the answer was lost. `client` is MLflow's.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if artifacts is None else artifacts.absolute().as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    return str(found.experiment_id)
