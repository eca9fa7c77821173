"""The data's versions: what was taken in is tracked, and pushed where there is a remote."""

import sys
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError


@task(cache_policy=NO_CACHE, persist_result=False)
def track(root: Path, raw: str, *, changed: bool) -> None:
    """Let DVC track the raw folder. Costs nothing if no row came in.

    Raises:
        ConfigError: DVC refused.
    """
    if changed or not (root / f"{raw}.dvc").exists():
        _dvc(root, "add", raw)


@task(cache_policy=NO_CACHE, persist_result=False)
def push(root: Path, *, remote: bool) -> None:
    """Push the data to the remote, or log that there is none.

    Raises:
        ConfigError: DVC could not push.
    """
    if remote:
        _dvc(root, "push")
    else:
        get_run_logger().info("no DVC remote is configured: the data stay on this machine alone")


def _dvc(root: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    child = run_child(command, root, get_run_logger().info)
    if child.code != 0:
        raise ConfigError(
            f"`dvc {' '.join(arguments)}` failed in {root}:\n{child.last_lines}",
            "mend what DVC names, then run again",
        )
