"""What flows and tasks tell each other about stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

StageState = Literal["executed", "restored", "skipped", "failed", "not_run"]


@dataclass(frozen=True)
class Dependency:
    """A file or folder that a stage reads, and DVC's hash of what it holds now."""

    path: str
    digest: str


@dataclass(frozen=True)
class Stage:
    """One node of the graph as it stands now.

    `key` is the SHA-256 of its name, command, dependency hashes and param values; `current` says
    that its outs are what that key makes, so that there is nothing to do. `params` are the tracked
    params files, `reports` the outs that people read.
    """

    name: str
    command: str
    dependencies: tuple[Dependency, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...]
    key: str
    current: bool

    @property
    def reports(self) -> tuple[str, ...]:
        """Return the outs that hold reports."""
        return tuple(out for out in self.outs if Path(out).parent.name == "reports")


@dataclass(frozen=True)
class StageOutcome:
    """How one stage went in one night."""

    name: str
    state: StageState
    seconds: float
