"""Writes that fail in a process of Python: with no space, an I/O error, or a file that is cut.

Python tells an audit hook of each file that it is about to open, rename, make or delete; where the
hook raises, that fails. What libraries write by themselves (Arrow, safetensors) tells no hook: a
bound on the size of files cuts it, as a full disk does, in the middle of a write.
"""

import errno
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Fault:
    """What fails below a folder: the `at`-th change, counted from 1, with an error of the system;
    or each file at so many bytes. With neither, changes are counted alone.
    """

    below: str
    at: int = 0
    error: int = errno.ENOSPC
    file_bytes: int = 0

    def __str__(self) -> str:
        name = errno.errorcode[self.error]
        return f"cut at {self.file_bytes} bytes" if self.file_bytes else f"{name} at {self.at}"

    def message(self) -> dict[str, Any]:
        """The fault as JSON, from which `inject` makes it again."""
        return asdict(self)

    def inject(self) -> Callable[[], int]:
        """Let this process fail so; return what tells how many changes it has begun."""
        counted, below = 0, Path(self.below)

        def look(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal counted
            if event == "open":
                path, _, flags = arguments
                changes = bool(flags & _WRITING)
            else:
                path, changes = (arguments or (None,))[0], event in _CHANGES
            if not changes or not isinstance(path, (str, bytes, os.PathLike)):
                return
            if not Path(os.fsdecode(path)).absolute().is_relative_to(below):
                return
            counted += 1
            if counted == self.at:
                raise OSError(self.error, os.strerror(self.error), os.fsdecode(path))

        if self.file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, self.file_bytes))
        sys.addaudithook(look)
        return lambda: counted


def changes_counted(root: Path) -> Path:
    """Where a stage that ran to its end under a fault says how many changes it made."""
    return root / "changes"
