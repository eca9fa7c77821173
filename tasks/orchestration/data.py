"""The data's versions: what was taken in is tracked, and shared where there is a remote."""

import sys
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.records.withdrawals import FOLDER
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError


@task(cache_policy=NO_CACHE, persist_result=False)
def bring_rows(root: Path, raw: str, *, remote: bool) -> None:
    """Bring the rows that `data/raw.dvc` names, in a fresh clone or after `git pull`.

    A night that began without them would take all rows in anew under other names, or let go those
    that another machine took in. DVC deletes no rows for them that it does not hold.

    Raises:
        ConfigError: DVC could not; what is there is not complete.
    """
    _dvc(root, "pull" if remote else "checkout", f"{raw}.dvc")


@task(cache_policy=NO_CACHE, persist_result=False)
def track(root: Path, raw: str, *, changed: bool) -> None:
    """Let DVC track the raw folder. Costs nothing if no row came in and none was withdrawn.

    Raises:
        ConfigError: DVC refused.
    """
    tracked = root / f"{raw}.dvc"
    if changed or not tracked.exists() or _withdrawn_since(root / raw, tracked.stat().st_mtime_ns):
        _dvc(root, "add", raw)


def _withdrawn_since(raw: Path, time_ns: int) -> bool:
    """Return whether something was withdrawn or restored after a time."""
    return any(path.stat().st_mtime_ns > time_ns for path in (raw / FOLDER).rglob("*"))


@task(cache_policy=NO_CACHE, persist_result=False)
def push(root: Path, *, remote: bool) -> None:
    """Push the data to the remote, with what another machine needs to run no stage again.

    Where there is no remote, that is logged.

    Raises:
        ConfigError: DVC could not push.
    """
    if remote:
        _dvc(root, "push", "--run-cache")
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
