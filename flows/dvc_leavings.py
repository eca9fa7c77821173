"""What a DVC that was killed leaves in a workspace: mended before the next night's stages run.

Whoever calls this holds the workspace's lock, so that no night uses DVC there.
"""

import json
from pathlib import Path

import psutil

from flows.graph import is_lock_whole, locked_run_cache
from flows.workspace import STATE

_LOCK = "dvc.lock"
_ASIDE = "damaged"


def mend_leavings(root: Path) -> list[str]:
    """Mend what a killed DVC left, and return a sentence on each thing.

    Raises:
        ConfigError: DVC can't read the workspace.
    """
    told = [_clear_busy(root), _put_torn_lock_aside(root)]
    return [line for line in told if line is not None]


def _clear_busy(root: Path) -> str | None:
    """Delete DVC's list of who reads and writes which path, if nobody on it lives.

    DVC drops those whose pid no process has. After a restart another process has it, and a list
    that was cut short can't be read: then no stage would run until a person deletes it.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.exists() or _pids(path) == []:
        return None
    with locked_run_cache(root):  # then no DVC writes it
        pids, written = _pids(path), path.stat().st_mtime
        if any(_is_dvc(pid, written) for pid in pids or ()):
            return None
        path.unlink()
    return f"{path} named no process that lives: it is deleted"


def _pids(path: Path) -> list[int] | None:
    """Return the processes on the list, None if it can't be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
        readers = [one for found in content.get("read", {}).values() for one in found]
        return [int(one["pid"]) for one in (*readers, *content.get("write", {}).values())]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _is_dvc(pid: int, written: float) -> bool:
    """Return whether a process can be the one that a file of this time names."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= written + 1 and "dvc" in " ".join(process.cmdline())
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def _put_torn_lock_aside(root: Path) -> str | None:
    """Move a `dvc.lock` that can't be read away: DVC writes it in place, and was killed meanwhile.

    What it named is in the run cache, from which the stages' outs come back.
    """
    path = root / _LOCK
    if not path.exists() or is_lock_whole(root):
        return None
    aside = root / STATE / _ASIDE / _LOCK
    aside.parent.mkdir(parents=True, exist_ok=True)
    path.replace(aside)
    return f"{path} could not be read: it lies in {aside.parent}, and DVC's run cache replaces it"
