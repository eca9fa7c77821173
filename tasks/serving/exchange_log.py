"""The server's side of the log: entries go to a writer, a process of its own, beside requests.

Nothing here makes an answer wait. What the writer can't take is dropped and counted.
"""

import asyncio
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tasks.feedback.exchanges import Exchange, Feedback, LogPlace, Outcome
from tasks.services.processes import child_environment, end_child, start_child

_MOST_WAITING = 1000
_MOST_CHARACTERS = 20_000_000
_RESTART_SECONDS = 30.0
# MLflow asks a database that is away for minutes: such a writer is ended, and tried again later.
_OUTCOME_SECONDS = 20.0
_DRAIN_SECONDS = 5.0
_FEEDBACK_SECONDS = 30.0

Told = Callable[[Outcome], object]


class ExchangeLog:
    """Hands entries to the writer; `offer` and `give` never block.

    It is off until `keep` says where entries go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place: LogPlace | None = None
        self._waiting: queue.Queue[tuple[Exchange | Feedback, Told] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._writer: subprocess.Popen[str] | None = None
        self._written_to: LogPlace | None = None
        self._characters = 0  # of what waits
        self._outcomes: queue.Queue[Outcome | None] = queue.Queue()
        self._restart_at = 0.0
        self._counts = {"kept": 0, "dropped": 0, "left_out": 0}
        self._error: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_on(self) -> bool:
        """Return whether entries are kept."""
        return self._place is not None

    def keep(self, place: LogPlace) -> None:
        """Keep entries there from now on."""
        self._place = place
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="log", daemon=True)
            self._thread.start()

    def offer(self, exchange: Exchange) -> None:
        """Keep an exchange, or drop and count it where too many wait."""
        self._put(exchange, lambda outcome: None)

    async def give(self, feedback: Feedback) -> Outcome:
        """Return what became of feedback; `failed` where the writer does not say it in time."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Outcome] = loop.create_future()

        def tell(outcome: Outcome) -> None:
            loop.call_soon_threadsafe(_resolve, found, outcome)

        self._put(feedback, tell)
        with suppress(TimeoutError):
            return await asyncio.wait_for(found, _FEEDBACK_SECONDS)
        return Outcome(outcome="failed", error="the log did not answer in time")

    def health(self) -> dict[str, object] | None:
        """Return how many entries were kept and dropped, and the last error; None where it is off.

        `left_out` counts those with personal data that params drop.
        """
        return self._counts | {"error": self._error} if self.is_on else None

    def close(self) -> None:
        """Give the writer what waits, for some seconds, and end it."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(_DRAIN_SECONDS)
            self._end_writer()

    def _put(self, entry: Exchange | Feedback, told: Told) -> None:
        if not self.is_on:
            return
        characters = _characters(entry)
        if self._characters + characters > _MOST_CHARACTERS:
            self._drop(told, f"entries of more than {_MOST_CHARACTERS} characters wait")
            return
        try:
            self._waiting.put_nowait((entry, told))
        except queue.Full:
            self._drop(told, f"more than {_MOST_WAITING} entries wait")
        else:
            with self._lock:
                self._characters += characters

    def _drop(self, told: Told, error: str) -> None:
        outcome = Outcome(outcome="failed", error=error)
        self._count(outcome)
        told(outcome)

    def _count(self, outcome: Outcome) -> None:
        with self._lock:
            name = "dropped" if outcome.outcome == "failed" else outcome.outcome
            if name in self._counts:
                self._counts[name] += 1
            self._error = outcome.error if name == "dropped" else None

    def _work(self) -> None:
        """Hand entries over, each once the one before is settled, until told to end."""
        while (item := self._waiting.get()) is not None:
            entry, told = item
            with self._lock:
                self._characters -= _characters(entry)
            if not self._start_writer():
                self._drop(told, self._error or "the log's writer has ended")
                continue
            outcome = self._hand_over(entry)
            if outcome is None:
                self._end_writer(wait_seconds=0.0)
                self._drop(told, "the log's writer failed; see .nightloom/logs/serve.log")
            else:
                self._count(outcome)
                told(outcome)

    def _hand_over(self, entry: Exchange | Feedback) -> Outcome | None:
        """Return what the writer made of an entry, None where it has ended or takes too long."""
        assert self._writer is not None
        assert self._writer.stdin is not None
        try:
            self._writer.stdin.write(entry.line())
            self._writer.stdin.flush()
            return self._outcomes.get(timeout=_OUTCOME_SECONDS)
        except (OSError, queue.Empty):
            return None

    def _start_writer(self) -> bool:
        """Start a writer where none lives; return False where one ended a moment ago."""
        if self._place != self._written_to:
            self._end_writer()
            self._restart_at = 0.0
        if self._writer is not None and self._writer.poll() is None:
            return True
        if time.monotonic() < self._restart_at or self._place is None:
            return False
        self._restart_at = time.monotonic() + _RESTART_SECONDS
        environment = child_environment() | {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false"}
        self._writer = start_child(
            [sys.executable, "-m", "tasks.feedback.writer"],
            self._folder,
            environment,
            stdin=subprocess.PIPE,
            stderr=sys.stderr,
            grace_seconds=1.0,
        )
        self._written_to = self._place
        self._outcomes = queue.Queue()
        arguments = (self._writer, self._outcomes)
        threading.Thread(target=_read, args=arguments, daemon=True).start()
        assert self._writer.stdin is not None
        with suppress(OSError):
            self._writer.stdin.write(self._place.line())
            self._writer.stdin.flush()
        return True

    def _end_writer(self, *, wait_seconds: float = _DRAIN_SECONDS) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        assert writer.stdin is not None
        with suppress(OSError):
            writer.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            writer.wait(wait_seconds)
        end_child(writer)


def _characters(entry: Exchange | Feedback) -> int:
    """Return how much text an entry holds."""
    if isinstance(entry, Feedback):
        return len(entry.answer or "") + len(entry.note or "")
    texts = [text for _, text in entry.turns] + [passage.text for passage in entry.passages]
    return len(entry.answer) + sum(map(len, texts))


def _read(writer: "subprocess.Popen[str]", outcomes: "queue.Queue[Outcome | None]") -> None:
    """Pass on what a writer tells, and None once it has ended."""
    assert writer.stdout is not None
    for line in writer.stdout:
        outcomes.put(Outcome.model_validate_json(line))
    outcomes.put(None)


def _resolve(found: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not found.done():
        found.set_result(outcome)
