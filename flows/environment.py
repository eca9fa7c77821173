"""The settings under which Prefect and MLflow run here, unless the user has set others."""

import os
from pathlib import Path

from flows.services import Services
from flows.workspace import STATE
from tasks.orchestration.stores import Stores

_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Ours are asked again by `patience`, which tells so and counts the time.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A first start on a slow machine takes longer than Prefect's 20 seconds.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
}


def set_environment(checkout: Path) -> None:
    """Set what the user has not set; call it before anything imports Prefect."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    home = checkout / STATE / "prefect"
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder of its path alone
    os.environ.setdefault("PREFECT_HOME", str(home))
    services = Services.read(checkout)
    if services is not None:
        os.environ.setdefault("PREFECT_API_URL", services.prefect_api)


def find_stores(checkout: Path) -> Stores:
    """The MLflow store: the user's, else that of the servers which `up` started, else sqlite."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return Stores(given, None)
    artifacts = checkout / STATE / "artifacts"
    services = Services.read(checkout)
    if services is not None:
        return Stores(services.mlflow, artifacts)
    (checkout / STATE).mkdir(exist_ok=True)
    return Stores(f"sqlite:///{checkout / STATE / 'mlflow.db'}", artifacts)
