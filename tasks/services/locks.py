"""A lock on a file: one process holds it at a time, and a file beside it names that process.

filelock locks the file itself. The kernel frees it when its holder dies, however it dies, and no
child inherits it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.05

# Whoever asks for the holder has the lock for a moment; another who asks must not take them for it.
_ASKING_SECONDS = 0.25

# What this process holds, with its pid, which a child that was forked does not have.
_held: dict[Path, int] = {}


class LockedError(Exception):
    """A lock was held by another process for too long."""


@contextmanager
def hold(path: Path, *, wait_seconds: float = 2 * _ASKING_SECONDS) -> Iterator[None]:
    """Hold a lock for the length of a block.

    Raises:
        LockedError: another process held it for `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _acquired(path, wait_seconds):
        _pid_file(path).write_text(f"{os.getpid()}\n", encoding="utf-8")
        _held[path.resolve()] = os.getpid()
        try:
            yield
        finally:
            del _held[path.resolve()]
            _pid_file(path).unlink(missing_ok=True)


def find_holder(path: Path) -> int | None:
    """Return the pid of the process that holds a lock, 0 if that is unknown; None if it is free."""
    if not path.exists():
        return None
    if _held.get(path.resolve()) == os.getpid():
        return os.getpid()  # without waiting for itself
    try:
        with _acquired(path, _ASKING_SECONDS):
            return None
    except LockedError:
        return read_pid(path) or 0


def read_pid(path: Path) -> int | None:
    """Return the pid that the last holder of a lock left, if it still holds it or was killed."""
    try:
        return int(_pid_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def _acquired(path: Path, wait_seconds: float) -> Iterator[None]:
    # Deferred: `nightloom --help` imports this module and locks nothing.
    from filelock import FileLock, Timeout

    # A lock file that only exists would outlive a killed holder, so no fallback to one.
    lock = FileLock(path, poll_interval=_POLL_SECONDS, fallback_to_soft=False)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise LockedError(path) from None
    try:
        yield
    finally:
        lock.release()


def _pid_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.pid")
