"""What `nightloom up` starts again when it ends by itself: a server, or the worker."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.stage.errors import ConfigError

_DEATHS = 5
_WITHIN_SECONDS = 600.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds; each death within the time doubles the wait


class GaveUpError(ConfigError):
    """What `up` keeps ended too often to be started again."""


class Supervision:
    """Looks whether children live, and starts those again that do not.

    `children` holds the ones that live now, by name; it is kept up to date.
    """

    def __init__(
        self,
        children: dict[str, "subprocess.Popen[str]"],
        start: Callable[[str], Sequence[str]],
        log: Callable[[str], Path],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch children; `start` puts a new one of a name among them, and returns what it did
        besides; `log` says where it writes. `clock` is in seconds.
        """
        self._children, self._start, self._log, self._clock = children, start, log, clock
        self._deaths: dict[str, list[float]] = {}
        self._due: dict[str, float] = {}

    def look(self) -> list[str]:
        """Note who died, start who is due, and return a sentence on each.

        Raises:
            GaveUpError: one died five times in ten minutes.
        """
        told: list[str] = []
        for name, child in list(self._children.items()):
            if name in self._due:
                if self._clock() >= self._due[name]:
                    del self._due[name]
                    told += [*self._start(name), f"{name} is started again"]
            elif (code := child.poll()) is not None:
                told.append(self._note(name, code))
        return told

    def _note(self, name: str, code: int) -> str:
        """Note a death, and when its successor starts; return a sentence on it."""
        now = self._clock()
        since = [died for died in self._deaths.get(name, []) if now - died < _WITHIN_SECONDS]
        self._deaths[name] = [*since, now]
        count = len(self._deaths[name])
        if count >= _DEATHS:
            raise GaveUpError(
                f"{name} ended by itself {count} times in {(now - since[0]) / 60:.0f} min, the "
                f"last time with exit code {code}, so it is not started again, and all is stopped",
                f"read {self._log(name)}, its log; then `nightloom up`",
            )
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (count - 1))
        self._due[name] = now + wait
        return f"{name} ended by itself with exit code {code}: it is started again in {wait:g} s"
