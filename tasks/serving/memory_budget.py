"""Memory for rows that are being answered: what is free, less what was promised to others."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.feedback.params import RequestParams

if TYPE_CHECKING:
    import torch

_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass
class MemoryBudget:
    """Says whether there is memory for more; `keep_free_bytes` are given to nobody.

    The engines of one server share it. What one was granted and has not written yet is no longer
    free for another, though the machine still says so.
    """

    keep_free_bytes: int
    _granted: dict[object, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, bounds: RequestParams) -> "MemoryBudget":
        """Return the budget that params describe."""
        return cls(bounds.keep_free_megabytes * 1_000_000)

    def available(self, owner: object, device: "torch.device") -> int:
        """Return how many bytes `owner` could be granted in all."""
        with self._lock:
            return self._left(owner, device)

    def claim(self, owner: object, needed: int, device: "torch.device") -> bool:
        """Return whether `owner` may write `needed` more bytes, in place of what it was granted.

        Where it may not, what it was granted stays.
        """
        with self._lock:
            if needed > 0 and needed > self._left(owner, device):
                return False
            self._granted[owner] = needed
            return True

    def release(self, owner: object) -> None:
        """Void a claim: what was granted is written, or is not needed any more."""
        with self._lock:
            self._granted.pop(owner, None)

    def _left(self, owner: object, device: "torch.device") -> int:
        others = sum(bytes_ for other, bytes_ in self._granted.items() if other is not owner)
        return free_memory(device) - self.keep_free_bytes - others


def free_memory(device: "torch.device") -> int:
    """Return how many bytes a device has left, and a container's limit leaves of the machine's."""
    # Deferred: torch takes seconds to import, and the server is to tell its health meanwhile.
    from tasks.models.memory import free_bytes

    found = free_bytes(device)
    return found if device.type == "cuda" else min([found, *_free_in_groups()])


def _free_in_groups() -> Iterator[int]:
    """Yield what the limits of this process's control groups leave, if it has any (a container).

    Pages of files that were read are given back when memory is short.
    """
    for folder in _memory_groups():
        try:
            limit = (folder / "memory.max").read_text(encoding="ascii").strip()
            if limit == "max":
                continue
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except OSError:  # the root group has no limit, and no such files
            continue
        cached = [int(line.split()[1]) for line in lines if line.startswith("inactive_file ")]
        yield max(0, int(limit) - used + sum(cached))


def _memory_groups() -> list[Path]:
    """Return the folders of this process's control groups (cgroup v2), the innermost first."""
    try:
        lines = _GROUP.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return []
    inner = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if inner is None:
        return []
    group = _GROUPS / inner.strip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(_GROUPS))]
