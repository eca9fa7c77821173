"""Where the numbers and models of the nights are kept."""

from dataclasses import dataclass
from pathlib import Path

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
