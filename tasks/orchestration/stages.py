"""What flows and tasks tell each other about stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.stage.errors import (
    ConfigError,
    DataError,
    DeviceError,
    Failure,
    GateError,
    NightloomError,
)

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
        """The outs that hold reports."""
        return tuple(out for out in self.outs if Path(out).parent.name == "reports")


@dataclass(frozen=True)
class StageOutcome:
    """How one stage went in one night."""

    name: str
    state: StageState
    seconds: float


class StageError(NightloomError):
    """A stage ended in a way that it did not foresee; `kind` is the class it names."""

    def __init__(self, message: str, remedy: str, kind: str) -> None:
        super().__init__(message, remedy)
        self.kind = kind


_KNOWN: dict[str, type[NightloomError]] = {
    cls.__name__: cls for cls in (ConfigError, DataError, DeviceError, GateError)
}


def stage_error(stage: str, failure: Failure) -> NightloomError:
    """The error that a stage's `failure.json` stands for."""
    message = f"{stage}: {failure.message}"
    known = _KNOWN.get(failure.error)
    if known is None:
        return StageError(message, failure.remedy, failure.error)
    return known(message, failure.remedy)


def error_class(error: BaseException) -> str:
    """The class name by which an error is reported."""
    return error.kind if isinstance(error, StageError) else type(error).__name__
