"""One promoter at a time: the lock that each holds while it changes aliases or the ledger."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.services import locks
from tasks.stage.errors import ConfigError

PROMOTION_LIMIT = "nightloom-promotion"

# A killed promoter's slot is free again after so long; Prefect takes no shorter one.
_LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class PromotionLock:
    """A lock on a file, and the concurrency limit of a shared Prefect server."""

    file: Path
    shared: bool
    wait_seconds: float

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; it is free again when the holder dies, however it dies.

        Raises:
            ConfigError: another promoter held it for too long, or the server has no such limit.
        """
        deadline = time.monotonic() + self.wait_seconds
        with ExitStack() as stack:
            try:
                # Promoters wait here, so that one that has just held the lock can't overtake them.
                with locks.hold(self.file.with_suffix(".next"), wait_seconds=self.wait_seconds):
                    left = max(0.0, deadline - time.monotonic())
                    stack.enter_context(locks.hold(self.file, wait_seconds=left))
            except locks.LockedError:
                raise self._locked_error() from None
            if self.shared:
                _enter_limit(stack, max(1.0, deadline - time.monotonic()))
            yield

    def _locked_error(self) -> ConfigError:
        holder = locks.read_pid(self.file) or "unknown"
        return ConfigError(
            f"the promoters' lock was not free within {self.wait_seconds:.0f} s: process {holder} "
            f"holds {self.file}",
            "wait for it, or end it with `kill PID`: what it began is then finished first",
        )


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
