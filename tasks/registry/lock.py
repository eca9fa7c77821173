"""One promoter at a time: the lock that each holds while it changes aliases or the ledger."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tasks.stage.errors import ConfigError

PROMOTION_LIMIT = "nightloom-promotion"

# A killed promoter's slot is free again after so long; Prefect takes no shorter one.
_LEASE_SECONDS = 60.0

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class PromotionLock:
    """Where turns are taken: a file that is locked; on a shared Prefect server its limit too."""

    lock: Path
    shared: bool
    wait_seconds: float

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Hold the turn; the system lets go of it when the holder dies, however it dies.

        Raises:
            ConfigError: another one held it for too long, or the server has no such limit.
        """
        deadline = time.monotonic() + self.wait_seconds
        with ExitStack() as stack:
            # Whoever waits stands here, so that one who has just had a turn can't overtake them.
            with self._locked(self.lock.with_suffix(".next"), deadline):
                stack.enter_context(self._locked(self.lock, deadline))
            if self.shared:
                _enter_limit(stack, max(1.0, deadline - time.monotonic()))
            yield

    @contextmanager
    def _locked(self, path: Path, deadline: float) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8") as stream:
            while not _try_lock(stream):
                if time.monotonic() > deadline:
                    raise self._held()
                time.sleep(_LOOK_SECONDS)
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            yield
            stream.truncate(0)

    def _held(self) -> ConfigError:
        holder = self.lock.read_text(encoding="utf-8").strip() if self.lock.exists() else ""
        return ConfigError(
            f"no turn to promote came within {self.wait_seconds:.0f} s: process "
            f"{holder or 'unknown'} holds {self.lock}",
            "wait for it, or end it with `kill PID`: what it began is then finished first",
        )


def _try_lock(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _enter_limit(stack: ExitStack, seconds: float) -> None:
    """Take the slot of the shared server."""
    # Deferred: the commands that need no server should not wait seconds for its import.
    from prefect.concurrency.sync import concurrency

    limit = concurrency(
        PROMOTION_LIMIT, timeout_seconds=seconds, lease_duration=_LEASE_SECONDS, strict=True
    )
    try:
        stack.enter_context(limit)
    except TimeoutError:
        raise ConfigError(
            f"another promoter held Prefect's concurrency limit {PROMOTION_LIMIT} for "
            f"{seconds:.0f} s",
            f"wait for it; `prefect gcl inspect {PROMOTION_LIMIT}` shows it. The slot of a killed "
            "one is free again after a minute",
        ) from None
    except Exception as error:
        if type(error).__name__ != "ConcurrencySlotAcquisitionError":
            raise
        raise ConfigError(
            f"the Prefect server gives no slot of the concurrency limit {PROMOTION_LIMIT}, without "
            f"which two could promote at once: {error}",
            f"`nightloom up` makes it; on a server of your own: `prefect gcl create "
            f"{PROMOTION_LIMIT} --limit 1`",
        ) from None
