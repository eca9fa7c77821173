"""Locks on files: one holder, named by its pid, and free as soon as it is gone."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.services.locks import LockedError, find_holder, hold, read_pid

HOLD = """
import subprocess, sys, time
from pathlib import Path
from tasks.services.locks import hold
with hold(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_until_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "one.lock"
    assert find_holder(path) is None
    with hold(path):
        assert find_holder(path) == os.getpid()
        with pytest.raises(LockedError), hold(path, wait_seconds=0):
            pass
        assert find_holder(path) == os.getpid()
    assert (find_holder(path), read_pid(path)) == (None, None)


def test_who_holds_a_lock_is_told_so_at_once(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with hold(path):
        begun = time.monotonic()
        assert {find_holder(path) for _ in range(20)} == {os.getpid()}
        assert time.monotonic() - begun < 1  # each question would wait for a quarter of a second


@pytest.mark.slow
def test_a_forked_child_does_not_hold_what_its_parent_holds(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with hold(path):
        if (child := os.fork()) == 0:
            os._exit(find_holder(path) != os.getppid())
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
def test_a_killed_holder_holds_nothing_though_its_child_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            assert find_holder(path) == holder.pid
            holder.kill()
            holder.wait()
            os.kill(child, 0)
            assert find_holder(path) is None
            with hold(path, wait_seconds=0):
                assert read_pid(path) == os.getpid()
        finally:
            os.kill(child, signal.SIGKILL)


def test_those_who_ask_for_the_holder_do_not_take_each_other_for_it(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with hold(path):
        pass
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(find_holder, [path] * 400)) == {None}
