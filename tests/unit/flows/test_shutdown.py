"""Ctrl-C, SIGTERM and a closed terminal: the first one interrupts."""

import subprocess
import sys

import pytest

# Each signal that is sent is told as what it did: an interruption, or nothing.
CODE = """
import os, signal, sys
from flows.shutdown import interrupt_on_signals
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
else:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
interrupt_on_signals(hurry="hurry" in sys.argv)
for name in sys.argv[1].split():
    try:
        os.kill(os.getpid(), signal.Signals[name])
        print("nothing")
    except KeyboardInterrupt:
        print("interrupted")
"""


def done_by(names: str, *how: str) -> list[str]:
    command = [sys.executable, "-c", CODE, names, *how]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_interrupts_and_later_ones_do_nothing(first: str) -> None:
    found = done_by(f"{first} SIGINT SIGTERM SIGHUP {first}")
    assert found == ["interrupted", *["nothing"] * 4]


@pytest.mark.slow
def test_a_second_ctrl_c_hurries_where_it_may() -> None:
    found = done_by("SIGHUP SIGTERM SIGINT SIGINT", "hurry")
    assert found == ["interrupted", "nothing", "interrupted", "interrupted"]


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    assert done_by("SIGHUP SIGHUP SIGTERM", "nohup") == ["nothing", "nothing", "interrupted"]
