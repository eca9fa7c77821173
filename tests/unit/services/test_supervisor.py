"""Supervised children: whatever ends the process that started them, nothing of theirs lives on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tasks.services.processes import ChildResult, run_child, supervised

# Within it, nothing of a process that was killed lives: the orphans' grace, and a busy machine.
SECONDS = 12.0
# Three levels below the command, each in a session of its own; all tell their pids.
LEVELS = """
import os, pathlib, signal, subprocess, sys, time
folder, level, stubborn = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if stubborn == "stubborn":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
if level < 3:
    command = [sys.executable, __file__, str(folder), str(level + 1), stubborn]
    subprocess.Popen(command, start_new_session=True)
(folder / f"level-{level}").write_text(str(os.getpid()))
time.sleep(120)
"""
# A process of ours: it starts the command as its stages are, by a thread that ends at once.
STARTER = """
import os, subprocess, sys, threading, time
from pathlib import Path
from tasks.services.processes import start_child
folder = Path(sys.argv[1])
def start():
    command = [sys.executable, *sys.argv[2:]]
    start_child(command, folder, dict(os.environ), stdout=subprocess.DEVNULL)
thread = threading.Thread(target=start)
thread.start()
thread.join()
(folder / "started").touch()
time.sleep(120)
"""


@dataclass(frozen=True)
class Family:
    """A process that started a command, the command's two watchers, and the three levels."""

    starter: "subprocess.Popen[bytes]"
    outer: psutil.Process
    inner: psutil.Process
    levels: list[psutil.Process]

    @property
    def below(self) -> list[psutil.Process]:
        """All that must end with the starter."""
        return [self.outer, self.inner, *self.levels]


def wait_for(what: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; one that only its parent has yet to take note of has."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def assert_gone(processes: list[psutil.Process], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while living(processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living(processes) == []


def as_in_a_terminal() -> None:
    """A shell lets its background jobs ignore some signals; these tests may run in one."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[str], Family]]:
    families: list[Family] = []
    script = tmp_path / "levels.py"
    script.write_text(LEVELS)

    def pid(level: int) -> psutil.Process:
        path = tmp_path / f"level-{level}"
        wait_for(lambda: path.exists() and bool(path.read_text()))
        return psutil.Process(int(path.read_text()))

    def start(manner: str) -> Family:
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTER, tmp_path, script, tmp_path, "1", manner],
            env=dict(os.environ) | {"PYTHONPATH": str(Path.cwd())},
            preexec_fn=as_in_a_terminal,
            start_new_session=True,
        )
        levels = [pid(1), pid(2), pid(3)]
        wait_for((tmp_path / "started").exists)
        inner = levels[0].parent()
        assert inner is not None
        outer = inner.parent()
        assert outer is not None
        assert outer.ppid() == starter.pid
        families.append(Family(starter, outer, inner, levels))
        return families[-1]

    yield start
    for family in families:
        family.starter.kill()
        family.starter.wait()
        for process in living(family.below):
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "manner"),
    [
        ("SIGKILL", "willing"),
        ("SIGKILL", "stubborn"),
        ("SIGTERM", "willing"),
        ("SIGHUP", "willing"),
        ("SIGINT", "willing"),
    ],
)
def test_nothing_lives_three_levels_below_a_process_that_was_ended(
    begin: Callable[[str], Family], name: str, manner: str
) -> None:
    family = begin(manner)
    family.starter.send_signal(signal.Signals[name])
    family.starter.wait(10)
    assert_gone(family.below)


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["willing", "stubborn"])
@pytest.mark.parametrize("victim", ["outer", "inner", "command"])
def test_nothing_lives_below_whichever_was_killed(
    begin: Callable[[str], Family], victim: str, manner: str
) -> None:
    family = begin(manner)
    {"outer": family.outer, "inner": family.inner, "command": family.levels[0]}[victim].kill()
    assert_gone(family.below)
    assert family.starter.poll() is None


@pytest.mark.slow
def test_a_child_outlives_the_thread_that_started_it(begin: Callable[[str], Family]) -> None:
    family = begin("willing")
    time.sleep(1.5)
    assert living(family.below) == family.below


@pytest.mark.slow
def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    script = tmp_path / "levels.py"
    script.write_text(LEVELS)
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"command = [sys.executable, {str(script)!r}, {str(tmp_path)!r}, '2', 'willing']\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'level-3')!r}).exists(): time.sleep(0.02)\n"
        "print('done')"
    )
    assert run_child([sys.executable, "-c", code], tmp_path) == ChildResult(0, ("done",))
    for level in (2, 3):
        assert not psutil.pid_exists(int((tmp_path / f"level-{level}").read_text()))


@pytest.mark.slow
def test_a_command_ends_what_it_started_in_its_own_order(tmp_path: Path) -> None:
    """It is told to end before those below it are, and has time to say how it ended."""
    code = """
import json, pathlib, signal, subprocess, sys, time
def end(*_):
    time.sleep(1)
    pathlib.Path("told.json").write_text(json.dumps({"child": child.poll()}))
    sys.exit(5)
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child([sys.executable, "-c", code], tmp_path, interrupt)
    assert json.loads((tmp_path / "told.json").read_text()) == {"child": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -9 $$", -9), ("kill -11 $$", -11), ("exit 0", 0)]
)
def test_a_commands_exit_code_or_signal_is_its_own(script: str, code: int) -> None:
    assert subprocess.run(supervised(["sh", "-c", script]), check=False).returncode == code


@pytest.mark.slow
def test_a_command_that_cannot_be_started_says_so() -> None:
    done = subprocess.run(supervised(["no-such-program"]), capture_output=True, text=True)
    assert done.returncode == 127
    assert "no-such-program can't be started: No such file or directory" in done.stderr


@pytest.mark.slow
def test_a_commands_standard_input_and_output_are_its_own() -> None:
    """Their ends are seen while the command lives: the watchers hold neither."""
    code = "import os, sys, time; print(sys.stdin.read()); sys.stdout.flush(); os.close(1); input"
    code += "; time.sleep(60)"
    child = subprocess.Popen(
        supervised([sys.executable, "-c", code]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"a question")
    child.stdin.close()
    assert child.stdout.read() == b"a question\n"
    assert child.poll() is None
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM


@pytest.mark.slow
def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As `nohup` says it."""
    shell = "trap '' HUP; exec " + " ".join(supervised(["sleep", "60"]))
    child = subprocess.Popen(shell, shell=True)
    try:
        wait_for(lambda: len(psutil.Process(child.pid).children(recursive=True)) == 2)
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        time.sleep(0.5)
        for process in family:
            process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert living(family) == family
    finally:
        child.terminate()
        child.wait(20)
