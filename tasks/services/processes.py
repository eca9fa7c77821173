"""Child processes: run, read line by line and ended whole; why one failed."""

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from tasks.services.loopback import proxy_exemptions
from tasks.stage.errors import (
    ConfigError,
    DataError,
    DeviceError,
    Failure,
    GateError,
    NightloomError,
)

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

_GRACE_SECONDS = 10.0

_LOOK_SECONDS = 0.1

_LAST_LINES = 12

Stream = int | IO[Any]


def child_environment(*, online: bool = False) -> dict[str, str]:
    """Return a child's environment: ours, telemetry off, this interpreter first on the PATH.

    Loopback goes by no proxy.
    `online` lets the Hugging Face libraries ask the hub; everything else stays on this machine.
    """
    environment = dict(os.environ) | TELEMETRY_OFF | proxy_exemptions(os.environ)
    environment["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    )
    environment["PYTHONUNBUFFERED"] = "1"
    environment["TOKENIZERS_PARALLELISM"] = "false"
    environment["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    if not online:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def hide_argument(text: str) -> None:
    """Take a text out of this process's arguments, which every user of the machine can read.

    On Linux alone, and only from now on.
    """
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return
    # arg_start and arg_end, the 48th and 49th fields (proc_pid_stat(5)); the second is in brackets.
    begin, end = (int(field) for field in stat.read_text().rpartition(")")[2].split()[45:47])
    hidden = os.fsencode(text)
    at = ctypes.string_at(begin, end - begin).find(hidden)
    if at >= 0:
        ctypes.memset(begin + at, ord("*"), len(hidden))


@dataclass(frozen=True)
class ChildResult:
    """How a child ended: its exit code, and the lines that it printed, blank ones left out.

    `is_late`: its time limit ended it; `is_silent`: it gave no sign of life for too long.
    """

    code: int
    lines: tuple[str, ...]
    is_late: bool = False
    is_silent: bool = False

    @property
    def last_lines(self) -> str:
        """Return what it printed last, for a message."""
        return "\n".join(self.lines[-_LAST_LINES:])


@dataclass(frozen=True)
class Silence:
    """When a child gives no sign of life: no line, and `sign` the same for so long."""

    seconds: float
    sign: Callable[[], object]


def run_child(
    command: Sequence[str],
    folder: Path,
    on_line: Callable[[str], object] = lambda line: None,
    environment: Mapping[str, str] | None = None,
    *,
    stdin: Stream = subprocess.DEVNULL,
    grace_seconds: float = _GRACE_SECONDS,
    limit_seconds: float | None = None,
    silence: Silence | None = None,
) -> ChildResult:
    """Run a command in `folder` to its end; `on_line` gets each line as soon as it is printed.

    A child that takes longer than `limit_seconds`, or is silent, is ended as well, and its result
    says so. Whatever interrupts the wait (Ctrl-C, a cancelled run, an error in `on_line`) ends the
    child and everything it started: SIGTERM, then SIGKILL after `grace_seconds`.
    """
    lines: list[str] = []
    child = start_child(command, folder, environment, stdin=stdin, grace_seconds=grace_seconds)
    assert child.stdout is not None
    with _Bounds(child, lines, limit_seconds, silence) as bounds:
        try:
            for line in child.stdout:
                if line.strip():
                    lines.append(line.rstrip())
                    on_line(lines[-1])
            code = child.wait()
        finally:
            end_child(child)
            child.stdout.close()
    return ChildResult(code, tuple(lines), bounds.is_late, bounds.is_silent)


class _Bounds:
    """Ends a child that takes too long or gives no sign of life, from a thread of its own."""

    def __init__(
        self,
        child: "subprocess.Popen[str]",
        lines: Sequence[str],
        limit_seconds: float | None,
        silence: Silence | None,
    ) -> None:
        self.is_late = self.is_silent = False
        self._child, self._lines = child, lines
        self._limit, self._silence = limit_seconds, silence
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bounds", daemon=True)

    def __enter__(self) -> "_Bounds":
        """Begin to watch, where there is a bound."""
        if self._limit is not None or self._silence is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to watch."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        begun = last = time.monotonic()
        seen = self._signs()
        while not self._over.wait(self._pause()):
            now = time.monotonic()
            if (signs := self._signs()) != seen:
                seen, last = signs, now
            self.is_late = self._limit is not None and now - begun > self._limit
            self.is_silent = self._silence is not None and now - last > self._silence.seconds
            if self.is_late or self.is_silent:
                self._child.terminate()
                return

    def _signs(self) -> object:
        return len(self._lines), self._silence and self._silence.sign()

    def _pause(self) -> float:
        """Return the seconds until the next look: a fiftieth of the shorter bound, at most 10."""
        bounds = [self._limit, self._silence and self._silence.seconds]
        return min(10.0, *(bound / 50 for bound in bounds if bound))


def start_child(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream = subprocess.STDOUT,
    grace_seconds: float = _GRACE_SECONDS,
) -> "subprocess.Popen[str]":
    """Start a supervised child, out of the terminal's reach; its streams are text."""
    return subprocess.Popen(
        supervised(command, grace_seconds),
        cwd=folder,
        env=dict(child_environment() if environment is None else environment),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def supervised(command: Sequence[str], grace_seconds: float = _GRACE_SECONDS) -> list[str]:
    """Return a command that ends, with all that it started at any depth, when this process ends.

    However this process ends, but not with the thread that starts the command. Its exit code,
    signal and streams are the command's own. SIGTERM gives it and what it started
    `grace_seconds` to end; this process's death gives them a few seconds.
    """
    here = [sys.executable, "-IS", str(Path(__file__).with_name("supervisor.py"))]
    return [*here, str(os.getpid()), str(grace_seconds), *command]


def process_tag() -> str:
    """Return what tells this process from all others: `HOST PID STARTED`."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def is_gone(tag: str) -> bool:
    """Return whether the process of a tag ran on this machine and has ended."""
    host, pid, started = tag.rsplit(" ", 2)
    return host == socket.gethostname() and not is_alive(int(pid), float(started))


def is_alive(pid: int, started: float) -> bool:
    """Return whether a process lives; `started` tells it from a later one with the same pid."""
    try:
        process = psutil.Process(pid)
        # A zombie has ended.
        same = abs(process.create_time() - started) < 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_child(child: "subprocess.Popen[str]") -> None:
    """End a supervised child with all that it started, within the grace it was started with."""
    if child.poll() is None:
        child.terminate()
    child.wait()


def start_server(
    command: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    grace_seconds: float = _GRACE_SECONDS,
) -> "subprocess.Popen[str]":
    """Start a supervised child whose output is appended to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return start_child(command, folder, environment, stdout=stream, grace_seconds=grace_seconds)


def last_log_lines(log: Path) -> str:
    """Return what a server's log says last, for a message."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])


_KNOWN: dict[str, type[NightloomError]] = {
    cls.__name__: cls for cls in (ConfigError, DataError, DeviceError, GateError)
}

_REMEDY = "\n  what to do: "


TIME_LIMIT = "TimeLimit"  # the kind of a stage's error that its time limit ended


class StageError(NightloomError):
    """A stage ended in a way that it did not foresee; `kind` is the class it names."""

    def __init__(self, message: str, remedy: str, kind: str) -> None:
        super().__init__(message, remedy)
        self.kind = kind


def stage_error(stage: str, failure: Failure) -> NightloomError:
    """Return the error that a failure stands for, its message beginning with the stage's name."""
    message = f"{stage}: {failure.message}"
    known = _KNOWN.get(failure.error)
    if known is None:
        return StageError(message, failure.remedy, failure.error)
    return known(message, failure.remedy)


def error_class(error: BaseException) -> str:
    """Return the class name by which an error is reported."""
    return error.kind if isinstance(error, StageError) else type(error).__name__


def left_failure(scratch: Path, child: ChildResult) -> Failure:
    """Return the failure in a child's scratch folder, or what it printed if it left none there."""
    return Failure.read(scratch) or printed_failure(child)


def printed_failure(child: ChildResult) -> Failure:
    """Return the error that a child printed last, or its last lines if it named none."""
    text = "\n".join(child.lines)
    begin, name = max((text.rfind(f"{name}: "), name) for name in _KNOWN)
    message, _, remedy = text[max(begin, 0) :].partition(_REMEDY)
    if begin < 0 or not remedy:
        return _unforeseen(child)
    return Failure(name, message.removeprefix(f"{name}: "), remedy)


def _unforeseen(child: ChildResult) -> Failure:
    return Failure(
        "ProcessError",
        f"ended with exit code {child.code} and left no reason; it printed last:\n"
        f"{child.last_lines}",
        "read these lines; a process that was killed may have run out of memory",
    )
