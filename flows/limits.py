"""What bounds a night as a whole: its time limit, and the memory and disk that are left.

A thread of its process looks every two seconds. It measures what each stage takes, too, by which
the next night knows beforehand whether there is room for it.
"""

import contextlib
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.run_state import NightLog, NightState, StageEntry, last_nights
from tasks.orchestration.reproduce import NightParams
from tasks.services.processes import TIME_LIMIT, StageError
from tasks.stage.errors import NightloomError

NO_ROOM = "NoRoom"  # the kind of the error of a night for which memory or disk do not suffice

_LOOK_SECONDS = 2.0
_STUCK_SECONDS = 600.0  # what a night that was told to end has for it
_LOOKED_AT = 20  # nights, for what each stage took last
_MB, _GB = 1e6, 1e9
_BLOCK = 512.0  # bytes that ru_oublock counts in, on Linux


@dataclass(frozen=True)
class Room:
    """Bytes of memory, swap included, and of disk: those that are free, or that are needed."""

    memory: float
    disk: float

    @classmethod
    def free(cls, folder: Path) -> "Room":
        """Return what this machine has for a process that works in a folder."""
        memory = psutil.virtual_memory().available + psutil.swap_memory().free
        return cls(memory, shutil.disk_usage(folder).free)


@contextmanager
def bounded(log: NightLog, folder: Path, limits: NightParams) -> Iterator[None]:
    """End the night of this process if it takes too long or leaves too little free.

    It is interrupted as by SIGTERM, with `log.cause` as the reason; should it not end then, it is
    killed, its verdict written.
    """
    over = threading.Event()
    watch = _Watch(log, folder, limits)
    thread = threading.Thread(target=watch.run, args=(over,), name="limits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Watch:
    """Looks at a night until it is over, or has to be ended."""

    def __init__(self, log: NightLog, folder: Path, limits: NightParams) -> None:
        self._log, self._folder, self._limits = log, folder, limits
        self._begun = time.monotonic()
        self._stage: StageEntry | None = None
        # As the stage began: the free disk, and what ended children of this process had written.
        self._free = self._written = 0.0
        self._fall = 0.0  # of the free disk since then, at its most

    def run(self, over: threading.Event) -> None:
        """Look from time to time; end this process once it has to be."""
        while not over.wait(_LOOK_SECONDS):
            free = Room.free(self._folder)
            self._measure(free)
            cause = self._cause(free)
            if cause is not None:
                self._log.cause = cause
                os.kill(os.getpid(), signal.SIGTERM)
                if not over.wait(_STUCK_SECONDS):
                    self._log.fail(KeyboardInterrupt())
                    os.kill(os.getpid(), signal.SIGKILL)
                return
        self._note_disk()

    def _cause(self, free: Room) -> NightloomError | None:
        """Return why the night has to end now, None if it may go on."""
        step, hours = self._log.now.step, self._limits.night_hours
        if time.monotonic() - self._begun > hours * 3600:
            return StageError(
                f"the night was ended in {step} after {hours:g} h, the limit in params/night.yaml",
                "raise night_hours, or ask the night for less; the next one goes on from there",
                TIME_LIMIT,
            )
        for what, left, least in (
            ("memory", free.memory, self._limits.least_memory_gb),
            ("disk", free.disk, self._limits.least_disk_gb),
        ):
            if left < least * _GB:
                return StageError(
                    f"the night was ended in {step}: {left / _GB:.2f} GB of {what} were free, and "
                    f"params/night.yaml asks for {least:g} GB, so that the system kills no process "
                    "and every store can be written",
                    f"free some {what}: `nightloom doctor` says what takes it; the next night goes "
                    "on from there",
                    NO_ROOM,
                )
        return None

    def _measure(self, free: Room) -> None:
        """Keep what the stage that runs takes, at its most."""
        running = next((e for e in self._log.now.stages if e.state == "running"), None)
        if running is not self._stage:
            self._note_disk()
            self._stage, self._free, self._fall = running, free.disk, 0.0
            self._written = _written_bytes()
        if running is not None:
            memory = round(_tree_bytes() / _MB)
            running.memory_mb = max(running.memory_mb or 0, memory)
            self._fall = max(self._fall, self._free - free.disk)

    def _note_disk(self) -> None:
        """Keep by how much free disk fell while a stage ran, but no more than it wrote itself."""
        if self._stage is not None:
            took = min(self._fall, _written_bytes() - self._written)
            self._stage.disk_mb = max(0, round(took / _MB))


def _written_bytes() -> float:
    """Return what all children of this process, at any depth, that have ended wrote to disks."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * _BLOCK


def _tree_bytes() -> float:
    """Return the memory of this process and of all below it; shared pages count once where the
    system tells them apart.
    """
    found = 0
    for process in _tree():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            told = process.memory_full_info()
            found += getattr(told, "pss", told.rss)
    return float(found)


def _tree() -> Sequence[psutil.Process]:
    own = psutil.Process()
    with contextlib.suppress(psutil.NoSuchProcess):
        return [own, *own.children(recursive=True)]
    return [own]


def needed(checkout: Path, workspace: str, stages: Iterable[str]) -> Room:
    """Return what stages took when each last ran there: the most memory, and all of their disk."""
    took: dict[str, StageEntry] = {}
    for night in last_nights(checkout, _LOOKED_AT):
        for entry in night.stages if night.workspace == workspace else ():
            if entry.state == "executed" and entry.memory_mb is not None:
                took.setdefault(entry.name, entry)
    found = [took[name] for name in stages if name in took]
    return Room(
        max((entry.memory_mb or 0 for entry in found), default=0) * _MB,
        sum(entry.disk_mb or 0 for entry in found) * _MB,
    )


def check_room(checkout: Path, night: NightState, stages: Sequence[str], share: float) -> None:
    """Check that memory and disk are there for stages that have to run, by what they took last.

    Raises:
        StageError: they are not.
    """
    needs, free = needed(checkout, night.workspace, stages), Room.free(checkout)
    own = _tree_bytes()  # is part of what the last night took, and is taken already
    for what, need, left in (
        ("memory", share * (needs.memory - own), free.memory),
        ("disk", share * needs.disk, free.disk),
    ):
        if need > left:
            raise StageError(
                f"{need / _GB:.2f} GB of {what} are needed for {stages[0]} and what follows, as "
                f"much as the last night took ({share:g} times); {left / _GB:.2f} GB are free, so "
                "the night would end half-way",
                f"free some {what}: `nightloom doctor` says what takes it; or lower room in "
                "params/night.yaml, if tonight asks for less than last time",
                NO_ROOM,
            )
