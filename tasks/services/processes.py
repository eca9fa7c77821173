"""Child processes: run, read line by line and ended whole; why one failed; loopback connections."""

import ctypes
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Any

from tasks.stage.errors import (
    ConfigError,
    DataError,
    DeviceError,
    Failure,
    GateError,
    NightloomError,
)

# Without [::1]: httpx, which Prefect uses, fails on an entry in brackets.
_HOSTS = ("localhost", "127.0.0.1", "::1")

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def proxy_exemptions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `no_proxy` and `NO_PROXY` as they must be: the user's own hosts, and loopback.

    Libraries disagree on which of the two names counts, so both hold everything.
    """
    names = ("no_proxy", "NO_PROXY")
    given = [part.strip() for name in names for part in environment.get(name, "").split(",")]
    if "*" in given:  # everything goes without a proxy; beside other hosts the star means nothing
        return dict.fromkeys(names, "*")
    hosts = dict.fromkeys([*filter(None, given), *_HOSTS])
    return dict.fromkeys(names, ",".join(hosts))


def open_directly(request: str | urllib.request.Request, *, timeout_seconds: float) -> HTTPResponse:
    """Open a URL of a server on this machine, whatever proxies the environment names.

    urllib's own reading of `no_proxy` knows no IPv6 address.

    Raises:
        OSError: nothing answered, or not with success (urllib.error.HTTPError).
    """
    response: HTTPResponse = _DIRECT.open(request, timeout=timeout_seconds)
    return response


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

    `is_late`: its time limit ended it.
    """

    code: int
    lines: tuple[str, ...]
    is_late: bool = False

    @property
    def last_lines(self) -> str:
        """Return what it printed last, for a message."""
        return "\n".join(self.lines[-_LAST_LINES:])


def run_child(
    command: Sequence[str],
    folder: Path,
    on_line: Callable[[str], object] = lambda line: None,
    environment: Mapping[str, str] | None = None,
    *,
    stdin: Stream = subprocess.DEVNULL,
    grace_seconds: float = _GRACE_SECONDS,
    limit_seconds: float | None = None,
) -> ChildResult:
    """Run a command in `folder` to its end; `on_line` gets each line as soon as it is printed.

    A child that takes longer than `limit_seconds` is ended as well, and its result says so.
    Whatever interrupts the wait (Ctrl-C, a cancelled run, an error in `on_line`) ends the child and
    everything it started: SIGTERM, then SIGKILL after `grace_seconds`.
    """
    lines: list[str] = []
    child = start_child(command, folder, environment, stdin=stdin, grace_seconds=grace_seconds)
    assert child.stdout is not None
    late = threading.Event()

    def end() -> None:
        late.set()
        child.terminate()

    timer = threading.Timer(limit_seconds or 0.0, end)
    if limit_seconds is not None:
        timer.start()
    try:
        for line in child.stdout:
            if line.strip():
                lines.append(line.rstrip())
                on_line(lines[-1])
        return ChildResult(child.wait(), tuple(lines), late.is_set())
    finally:
        timer.cancel()
        end_child(child)
        child.stdout.close()


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


def wait_for_answer(url: str, child: "subprocess.Popen[str]", seconds: float) -> bool:
    """Wait until a server answers; return False if it ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        if answers(url):
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def answers(url: str) -> bool:
    """Return whether a server on this machine answers there with success."""
    try:
        with open_directly(url, timeout_seconds=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


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
    """Return the failure in a child's scratch folder, or its last lines if it left none."""
    return Failure.read(scratch) or _unforeseen(child)


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
