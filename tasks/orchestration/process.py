"""Child processes: each in a session of its own, streamed line by line, never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tasks.orchestration.loopback import proxy_exemptions

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
_GRACE_SECONDS = 10.0


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
    child = subprocess.Popen(
        list(command),
        cwd=folder,
        env=dict(child_environment() if environment is None else environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if line.strip():
                on_line(line.rstrip())
        return child.wait()
    finally:
        end_group(child, grace_seconds)
        child.stdout.close()


def end_group(child: "subprocess.Popen[str]", grace_seconds: float = _GRACE_SECONDS) -> None:
    """End what is left of a child's process group: SIGTERM, then SIGKILL after `grace_seconds`."""
    deadline = time.monotonic() + grace_seconds
    if not _signal_group(child.pid, signal.SIGTERM):
        return
    while time.monotonic() < deadline:
        child.poll()
        if not _signal_group(child.pid, 0):
            return
        time.sleep(0.05)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _signal_group(group: int, number: int) -> bool:
    """Whether the group still existed to get the signal."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
