"""Runs a command, and ends it with all that it started when the process that asked for it ends.

Run as a file by `process.supervised`: it imports nothing of ours, and so starts in 30 ms. Two
processes watch, the outer one and a copy of it, since either may be killed: should the inner one
go, the outer one inherits what it kept; should the outer one go, the inner one takes it as the end.
A descendant whose own parent is gone is inherited by the nearest of them, whatever session it
is in. Only Linux has such inheritance; elsewhere the command's process group is ended.
"""

import ctypes
import os
import select
import signal
import sys
import time

_TOLD_BY = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What is left gets no more than this after the process that asked, or the command, has ended.
_ORPHAN_SECONDS = 5.0
_LOOK_SECONDS = 0.2
_LINUX = sys.platform == "linux"
_SET_CHILD_SUBREAPER = 36
# How long what a command left behind has at the least, and how long SIGKILL is tried.
_LEAST_SECONDS = 1.0
_KILL_SECONDS = 5.0
# How much longer than the inner one the outer one waits.
_MARGIN_SECONDS = 2.0
_CANNOT_START = 127


class _Watcher:
    """A process that has one child, and inherits what the child leaves behind."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._wake, told = os.pipe()
        for end in (self._wake, told):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        if _LINUX:
            ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.child = 0
        self.status: int | None = None

    def wait(self) -> signal.Signals | None:
        """Wait for the signal to end the child; return None when it, or the parent, has ended."""
        while not self.is_orphan and self._reap() and self.status is None:
            for number in self._sleep(_LOOK_SECONDS):
                if number in _TOLD_BY:
                    return signal.Signals(number)
        return None

    @property
    def is_orphan(self) -> bool:
        """Return whether the process that started this one has ended."""
        return os.getppid() != self._parent

    def end(self, number: int, soft_seconds: float, hard_seconds: float) -> None:
        """End the child, then what it leaves, within about `hard_seconds`.

        The child is told first and alone, so that it can end what it started in its own order. When
        it has ended, or after `soft_seconds`, all others are told to; what then still lives is
        killed.
        """
        begun = time.monotonic()
        if self.status is None:
            _signal(self.child, number)
        while self._reap() and self.status is None and time.monotonic() < begun + soft_seconds:
            self._sleep(0.1)
        if self._reap():
            self._signal_all(signal.SIGTERM, spared=self.child if self.status is None else 0)
        last = max(begun + hard_seconds, time.monotonic() + _LEAST_SECONDS)
        while self._reap() and time.monotonic() < last:
            self._sleep(0.1)
        while self._reap() and time.monotonic() < last + _KILL_SECONDS:
            self._signal_all(signal.SIGKILL)
            self._sleep(0.05)
        if self._reap():
            print(f"{_descendants()} can't be ended: SIGKILL did not", file=sys.stderr, flush=True)

    def leave(self) -> None:
        """Exit as the child did."""
        status = 0 if self.status is None else self.status
        if os.WIFSIGNALED(status):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.set_wakeup_fd(-1)
            number = os.WTERMSIG(status)
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        os._exit(os.waitstatus_to_exitcode(status))

    def _reap(self) -> bool:
        """Return whether any child is left, inherited ones too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child:
                self.status = status

    def _sleep(self, seconds: float) -> bytes:
        """Sleep until a signal comes, and return those that came."""
        if select.select([self._wake], [], [], seconds)[0]:
            return os.read(self._wake, 4096)
        return b""

    def _signal_all(self, number: int, spared: int = 0) -> None:
        if not _LINUX:
            _signal(-self.child, number)
            return
        for pid in _descendants():
            if pid != spared:
                _signal(pid, number)


def _descendants() -> list[int]:
    """Return every process below this one, the nearest first."""
    below: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  pathlib costs 10 ms
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:  # noqa: PTH123
                # PID (NAME) STATE PARENT ...; the name may hold brackets and blanks.
                parent = int(stream.read().rpartition(b")")[2].split()[1])
        except OSError:  # it has ended
            continue
        below.setdefault(parent, []).append(int(name))
    found = list(below.get(os.getpid(), []))
    for pid in found:
        found += below.get(pid, [])
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # it has ended, or is another user's
        return


def _watch_outside(watcher: _Watcher, grace_seconds: float) -> None:
    """Wait for the copy, which ends the command; end what is left should it have been killed."""
    number = watcher.wait()
    if number is not None:
        longest = grace_seconds + _MARGIN_SECONDS
        watcher.end(number, longest, longest)
    elif not watcher.is_orphan:  # if it is, then the copy becomes one too, and does what is needed
        watcher.end(signal.SIGTERM, 0.0, _ORPHAN_SECONDS)


def _watch_inside(watcher: _Watcher, grace_seconds: float) -> None:
    """Wait for the command, and end it with all that it started."""
    number = watcher.wait()
    grace = grace_seconds if number is not None else min(grace_seconds, _ORPHAN_SECONDS)
    watcher.end(number or signal.SIGTERM, grace / 2, grace)


def _spawn(command: list[str]) -> int:
    """Start the command in a session of its own, with the signals as they were given to us."""
    try:
        return os.posix_spawnp(
            command[0],
            command,
            os.environ,
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )
    except OSError as error:
        print(f"{command[0]} can't be started: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(_CANNOT_START)


def _let_go_of_streams() -> None:
    """Leave the command's input and output to it alone, so that their ends are seen."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def main() -> None:
    """Run `supervisor.py PARENT GRACE_SECONDS COMMAND...`."""
    parent, grace_seconds, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    handled = (signal.SIGCHLD, *_TOLD_BY)
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    for number in handled:
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
            signal.signal(number, lambda *_: None)
    outer, ours = _Watcher(parent), os.getpid()
    outer.child = os.fork()
    if outer.child == 0:
        inner = _Watcher(ours)
        inner.child = _spawn(command)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        _let_go_of_streams()
        _watch_inside(inner, grace_seconds)
        inner.leave()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
    _let_go_of_streams()
    _watch_outside(outer, grace_seconds)
    outer.leave()


if __name__ == "__main__":
    main()
