"""What `nightloom up` keeps alive: how it is found and ended, whoever opened or left it."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import ClassVar

import psutil

from flows.process_file import ProcessFile
from flows.run_state import last_nights
from flows.workspace import holders
from tasks.stage.errors import ConfigError

# All that `up` starts has this in its environment, and hands it on.
TAG = "NIGHTLOOM_UP"

# The checkout that it belongs to.
ROOT = "NIGHTLOOM_ROOT"

# What Prefect says in the environment of a flow's process, which hands it on too.
_FLOW_RUN = "PREFECT__FLOW_RUN_ID"

# How long a night of the worker has to end and to say so, and how long all of `up` may take.
_NIGHT_SECONDS = 30.0

_UP_SECONDS = _NIGHT_SECONDS + 60.0

# What a supervisor gives to those whose keeper was killed, and some more.
_ORPHAN_SECONDS = 15.0

_KILL_SECONDS = 10.0

_LOOK_SECONDS = 0.3


class Keeper(ProcessFile):
    """The process of `nightloom up`, from before its first child starts until none lives."""

    FILE: ClassVar[str] = "up.json"

    @property
    def tag(self) -> str:
        """Return what the environment of all that it started says."""
        return f"{self.pid}-{self.started:.2f}"


def find_keeper(checkout: Path) -> Keeper | None:
    """Return who keeps the servers of a checkout, or kept them and was killed; None if none did.

    Where its file is gone, what it started says who it was.
    """
    keeper = Keeper.last(checkout)
    if keeper is not None:
        return keeper
    for process in psutil.process_iter():
        found = _environment(process)
        if TAG in found and found.get(ROOT) == str(checkout):
            pid, _, started = found[TAG].partition("-")
            return Keeper(pid=int(pid), started=float(started))
    return None


def living(keeper: Keeper) -> list[psutil.Process]:
    """Return every process that a keeper started, at any depth, and that has not ended."""
    everything = psutil.process_iter()
    return [process for process in everything if _environment(process).get(TAG) == keeper.tag]


def end_flows(keeper: Keeper) -> None:
    """Let the flows that the worker runs end first, and say so in their records and to the servers.

    The worker itself, told to end, would kill them.
    """
    told: set[psutil.Process] = set()
    deadline = time.monotonic() + _NIGHT_SECONDS
    while (flows := _flows(keeper)) and time.monotonic() < deadline:
        for process in flows - told:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        told |= flows
        time.sleep(_LOOK_SECONDS)


def living_flow_runs() -> set[str]:
    """Return the ids of the flow runs that processes of this machine run for a worker."""
    environments = map(_environment, psutil.process_iter())
    return {found[_FLOW_RUN] for found in environments if _FLOW_RUN in found}


def oldest_holder(checkout: Path) -> float | None:
    """Return when the oldest other process that runs a night here began; None if there is none."""
    begun = []
    for pid in set(holders(checkout).values()) - {os.getpid()}:
        with contextlib.suppress(psutil.NoSuchProcess):
            begun.append(psutil.Process(pid).create_time() if pid else 0.0)  # 0: not known who
    return min(begun, default=None)


def _flows(keeper: Keeper) -> set[psutil.Process]:
    """Return the processes that run a flow, without those that they started."""
    found = {process for process in living(keeper) if _FLOW_RUN in _environment(process)}
    return {process for process in found if process.parent() not in found}


def _environment(process: psutil.Process) -> dict[str, str]:
    """Return a process's environment, empty if it has ended or is another user's."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return dict(process.environ())
    return {}


def end_leftovers(keeper: Keeper) -> None:
    """End what lives on of a keeper's, once its supervisors have had the time to do so.

    Raises:
        ConfigError: something can't be ended.
    """
    if _wait(lambda: not living(keeper), _ORPHAN_SECONDS):
        return
    for process in living(keeper):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if not _wait(lambda: not living(keeper), _KILL_SECONDS):
        raise ConfigError(
            f"SIGKILL did not end {_told(living(keeper))}",
            "see with `ps` what they wait for (a disk, a device), and run `nightloom down` again",
        )


def stop_services(checkout: Path, say: Callable[[str], None]) -> bool:
    """Stop what `up` had started, and return whether any of it lived.

    A night in another shell may use the servers: it is waited for first. One in the worker is
    ended, and has time to write down how.

    Raises:
        ConfigError: something can't be ended.
    """
    keeper = find_keeper(checkout)
    if keeper is None:
        return False
    was_up = keeper.is_kept
    if was_up:
        _wait_for_others(checkout, keeper, say)
    found = living(keeper)
    if was_up:
        _tell_nights(checkout, found, say)
        _end_keeper(keeper)
    end_leftovers(keeper)
    Keeper.remove(checkout)
    return was_up or bool(found)


def _end_keeper(keeper: Keeper) -> None:
    """Let `up` end all that it started; end `up` itself where it does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(keeper.pid)
        # Not SIGINT, which a shell lets its background jobs ignore.
        process.terminate()
        process.resume()  # Ctrl-Z had stopped it
        if not _wait(lambda: not keeper.is_kept, _UP_SECONDS):
            process.kill()  # its supervisors end the rest
            _wait(lambda: not keeper.is_kept, _KILL_SECONDS)


def _wait_for_others(checkout: Path, keeper: Keeper, say: Callable[[str], None]) -> None:
    """Wait for the nights and sweeps that run here and are none of the worker's."""
    told = {0}  # a night that has not written its pid yet
    while keeper.is_kept:
        others = set(holders(checkout).values()) - {process.pid for process in living(keeper)}
        if not others:
            return
        for pid in sorted(others - told):
            say(
                f"waiting for the night of process {pid}, started in another shell, which may use "
                f"these servers; `kill {pid}` ends it, Ctrl-C here leaves all of it up"
            )
        told |= others
        time.sleep(1)


def _tell_nights(
    checkout: Path, found: Sequence[psutil.Process], say: Callable[[str], None]
) -> None:
    pids = {process.pid for process in found}
    for night in last_nights(checkout, 3):
        if night.verdict is None and night.pid in pids:
            say(
                f"ending the night {night.night}, in {night.step}; `nightloom up` runs it again, "
                "or the next one goes on from there"
            )


def _told(processes: Sequence[psutil.Process]) -> str:
    """Return the processes' pids and commands."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(f"{process.pid} ({' '.join(process.cmdline())[:80]})")
    return ", ".join(found)


def _wait(what: Callable[[], bool], seconds: float) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not (true := what()) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return true


def interrupt_on_signals(*, hurry: bool) -> None:
    """Let the first of SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread.

    Those that come later, while what was begun is being ended, do nothing: a terminal that closes
    tells twice. With `hurry` a Ctrl-C still interrupts; children end with this process anyway.
    A SIGHUP that is ignored, as under `nohup`, stays so.
    """
    told = False

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if told and not (hurry and number == signal.SIGINT):
            return
        told = True
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
