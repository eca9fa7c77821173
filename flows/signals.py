"""How a command ends when it is told to: Ctrl-C, SIGTERM and a closed terminal are one."""

import signal
from types import FrameType


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
