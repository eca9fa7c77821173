"""How a command ends when it is told to: Ctrl-C, SIGTERM and a closed terminal are one."""

import signal
from types import FrameType

_TOLD_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_on_signals(*, hurry: bool) -> None:
    """Let the first of SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread.

    Those that come later, while what was begun is being ended, do nothing: a terminal that closes
    tells twice. With `hurry` a Ctrl-C still interrupts; children end with this process anyway.
    A SIGHUP that is ignored, as under `nohup`, stays so.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for later in _TOLD_BY:
            if signal.getsignal(later) is interrupt:
                again = hurry and later == signal.SIGINT
                # No SIG_IGN: children would inherit it.
                signal.signal(later, signal.default_int_handler if again else _do_nothing)
        raise KeyboardInterrupt

    for number in _TOLD_BY:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    return
