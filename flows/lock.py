"""One night at a time in a workspace."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.workspace import STATE
from tasks.stage.errors import ConfigError


@contextmanager
def night_lock(path: Path) -> Iterator[None]:
    """Hold a workspace's lock; the system lets go of it when the holder dies, however it dies.

    Raises:
        ConfigError: another night holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(path) from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield
        stream.truncate(0)


def check_free(path: Path) -> None:
    """Nothing, where no night holds the lock.

    Raises:
        ConfigError: one does.
    """
    if holder(path) is not None:
        raise _held(path)


def holder(path: Path) -> int | None:
    """The pid of the night that holds the lock, None where it is free."""
    if not path.exists():
        return None
    with path.open("r", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(stream.read().strip() or 0)
    return None


def holders(checkout: Path) -> dict[str, int]:
    """The pids of all nights that run in a checkout, by workspace."""
    locks = {"checkout": checkout / STATE / "night.lock"}
    for path in sorted((checkout / STATE / "workspaces").glob(f"*/{STATE}/night.lock")):
        locks[path.parent.parent.name] = path
    found = {name: holder(path) for name, path in locks.items()}
    return {name: pid for name, pid in found.items() if pid is not None}


def _held(path: Path) -> ConfigError:
    return ConfigError(
        f"a night is running here already: process {holder(path)} holds {path}",
        "wait for it (`nightloom status` shows it), or end it with `kill PID`",
    )
