"""What a live process says of itself to the other commands of a checkout, in a file."""

import os
from pathlib import Path
from typing import ClassVar, Self

import psutil
from pydantic import BaseModel

from flows.workspace import STATE
from tasks.services.processes import is_alive
from tasks.stage.outputs import write_atomically


class ProcessFile(BaseModel):
    """What a live process says of itself to the other commands of a checkout."""

    FILE: ClassVar[str]

    pid: int
    started: float
    place: str = ""  # the folder that the file was written in; a copy lies in another

    @classmethod
    def path(cls, checkout: Path) -> Path:
        """Return where the file lies."""
        return checkout / STATE / cls.FILE

    @classmethod
    def last(cls, checkout: Path) -> Self | None:
        """Return what the file says, whether its process is alive or was killed.

        A checkout is copied with its files: what they say of the original's processes is not ours.
        """
        path = cls.path(checkout)
        if not path.exists():
            return None
        found = cls.model_validate_json(path.read_text("utf-8"))
        return found if found.place == _identity(path.parent) else None

    @classmethod
    def read(cls, checkout: Path) -> Self | None:
        """Return what the file says, None unless its process is alive and ours."""
        found = cls.last(checkout)
        return found if found is not None and found.is_kept else None

    @property
    def is_kept(self) -> bool:
        """Return whether the process that keeps the file is alive."""
        return is_alive(self.pid, self.started)

    def write(self, checkout: Path) -> None:
        """Let the other commands read it."""
        path = self.path(checkout)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = self.model_copy(update={"place": _identity(path.parent)})
        write_atomically(path, kept.model_dump_json(indent=1) + "\n")

    @classmethod
    def remove(cls, checkout: Path) -> None:
        """Let nothing be found any more."""
        cls.path(checkout).unlink(missing_ok=True)


def _identity(folder: Path) -> str:
    """Return what a folder keeps when it is moved in its file system, and what no copy has."""
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


def this_process() -> tuple[int, float]:
    """Return this process's pid, and its start in seconds since 1970."""
    return os.getpid(), psutil.Process().create_time()
