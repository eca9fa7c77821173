"""Whole tiny nights of other tasks than answer, in a clone of their own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.builders.clones import MILD, UNTIMED, nightloom
from tests.fingerprint.clone import Clone

# Rows that are made up are alike, so that curation may take many for copies of one another.
ALIKE = ("curation.max_removed_share.duplicates=1.0", "curation.max_removed_share.leaks=1.0")


@dataclass(frozen=True)
class TaskNight:
    """A clone after its night, and the night's report."""

    checkout: Path
    night: dict[str, Any]

    @classmethod
    def run(cls, folder: Path, write: Callable[[Path], None], *settings: str) -> "TaskNight":
        """Run one in a new clone, into whose root `write` puts the rows."""
        clone = Clone.make(Path(), folder / "checkout").root
        write(clone)
        done = run_tiny(clone, *settings, *ALIKE, *MILD, UNTIMED)
        assert done.stdout, done.stderr[-3000:]
        return cls(clone, json.loads(done.stdout))

    @property
    def data(self) -> Path:
        [found] = self.checkout.glob(".nightloom/workspaces/*/data")
        return found

    @property
    def report(self) -> Path:
        return self.data / "reports" / "evaluation"

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.report / "metrics.json").read_text(encoding="utf-8")))


def run_tiny(clone: Path, *settings: str) -> "CompletedProcess[str]":
    """Run a tiny night with settings; its report is the standard output."""
    options = [word for text in settings for word in ("--set", text)]
    return nightloom(clone, "run", "--preset", "tiny", "--json", *options)
