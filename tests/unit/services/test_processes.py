"""Children: streamed, and ended whole."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.orchestration.reproduce import changes
from tasks.services.processes import (
    ChildResult,
    Silence,
    child_environment,
    is_gone,
    process_tag,
    run_child,
)

FAMILY = """
import signal, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(grandchild.pid, flush=True)
time.sleep(60)
"""


class InterruptionError(Exception):
    """Stands for whatever ends a wait early."""


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_lines_of_stdout_and_stderr_arrive_with_the_exit_code(tmp_path: Path) -> None:
    lines: list[str] = []
    code = (
        "import sys; print('one'); sys.stdout.flush(); print('two', file=sys.stderr); sys.exit(7)"
    )
    child = run_child(["python", "-c", code], tmp_path, lines.append)
    assert child == ChildResult(7, ("one", "two"))
    assert lines == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [[], ["stubborn"]])
def test_an_interruption_ends_the_child_and_all_it_started(
    tmp_path: Path, stubborn: list[str]
) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise InterruptionError

    with pytest.raises(InterruptionError):
        run_child(["python", "-c", FAMILY, *stubborn], tmp_path, on_line, grace_seconds=0.5)
    assert gone(pids[0])


def test_children_get_this_interpreter_no_telemetry_and_no_hub() -> None:
    environment = child_environment()
    assert environment["DO_NOT_TRACK"] == "true"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert (Path(environment["PATH"].split(os.pathsep)[0]) / "python").exists()
    assert child_environment(online=True).get("HF_HUB_OFFLINE") == os.environ.get("HF_HUB_OFFLINE")


WRITER = """
import pathlib, sys, time
print("begun", flush=True)
for step in range(int(sys.argv[1])):
    pathlib.Path("curve").write_text(str(step))
    time.sleep(0.2)
print("written", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_child_that_gives_no_sign_of_life_is_ended_and_one_that_works_is_not(
    tmp_path: Path,
) -> None:
    """What it writes is a sign, though it prints nothing for longer than it may be silent."""
    silence = Silence(5.0, lambda: changes(tmp_path))
    begun = time.monotonic()
    child = run_child(["python", "-c", WRITER, "40"], tmp_path, silence=silence)
    assert (child.is_silent, child.is_late) == (True, False)
    assert child.lines == ("begun", "written")
    assert time.monotonic() - begun < 45


@pytest.mark.slow
def test_a_child_that_takes_too_long_is_ended_though_it_works(tmp_path: Path) -> None:
    silence = Silence(30.0, lambda: changes(tmp_path))
    child = run_child(["python", "-c", WRITER, "300"], tmp_path, limit_seconds=2.0, silence=silence)
    assert (child.is_silent, child.is_late) == (False, True)


def test_a_process_is_told_from_a_later_one_with_its_pid_and_from_those_of_other_machines() -> None:
    tag = process_tag()
    host, pid, started = tag.rsplit(" ", 2)
    assert not is_gone(tag)
    assert is_gone(f"{host} {pid} {float(started) - 60}")
    assert is_gone(f"{host} {2**22 + 7} {started}")  # no process has this pid: Linux counts to 2^22
    assert not is_gone(f"elsewhere {2**22 + 7} {started}")


_HIDES = """
import sys
from tasks.services.processes import hide_argument
hide_argument(sys.argv[2])
print(sys.argv[2], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows them there")
def test_an_argument_that_is_hidden_stands_in_no_process_list() -> None:
    question = "Why did 한국 lose 50% of its (secret) contracts?"
    child = subprocess.Popen(
        [sys.executable, "-c", _HIDES, "ask", question, "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == question  # it still knows what it was asked
        line = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    finally:
        child.communicate()
    assert question.encode() not in line
    assert b"secret" not in line
    assert line.endswith(b"\0--json\0")
