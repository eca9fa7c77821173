"""Child processes: each supervised, streamed line by line, never left behind."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tasks.orchestration.loopback import proxy_exemptions

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
_GRACE_SECONDS = 10.0

Stream = int | IO[Any]


def child_environment(*, online: bool = False) -> dict[str, str]:
    """The environment of a child: ours, telemetry off, this interpreter first on the PATH.

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


def run_child(
    command: Sequence[str],
    folder: Path,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    *,
    grace_seconds: float = _GRACE_SECONDS,
) -> int:
    """The exit code of a command that ran in `folder`; `on_line` got each line it printed.

    Whatever interrupts the wait (Ctrl-C, a cancelled run, an error in `on_line`) ends the child and
    everything it started: SIGTERM, then SIGKILL after `grace_seconds`.
    """
    child = start_child(command, folder, environment, grace_seconds=grace_seconds)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if line.strip():
                on_line(line.rstrip())
        return child.wait()
    finally:
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
    """A supervised child, out of the terminal's reach; its streams are text."""
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
    """A command that ends, with all that it started at any depth, when this process ends.

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
