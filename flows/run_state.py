"""What a night leaves for people and commands: its state, verdict and error, in a file."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from flows.workspace import STATE, Workspace
from tasks.orchestration.night_figures import NightFigures
from tasks.orchestration.stages import StageOutcome
from tasks.services.processes import error_class
from tasks.stage.errors import Failure
from tasks.stage.outputs import write_atomically

Verdict = Literal["promoted", "refused", "unchanged", "failed"]

StageStateNow = Literal["executed", "restored", "skipped", "failed", "not_run", "running"]


class StageEntry(BaseModel):
    """One stage of a night; `running` only while the night lasts."""

    name: str
    state: StageStateNow = "not_run"
    seconds: float = 0.0


class ErrorEntry(BaseModel):
    """Why a night failed."""

    kind: str = Field(alias="class")
    message: str
    remedy: str


class NightState(BaseModel):
    """One night, whole or so far; `verdict` is null while it runs."""

    night: str
    verdict: Verdict | None = None
    stages: list[StageEntry] = []
    reasons: list[str] = []
    versions: dict[str, int | None] = {"adapter": None, "student": None}
    aliases: dict[str, dict[str, int]] = {"adapter": {}, "student": {}}
    error: ErrorEntry | None = None
    workspace: str
    step: str = "starting"
    pid: int
    mlflow_run: str | None = None
    figures: NightFigures | None = None


_REPORTED = {"night", "verdict", "stages", "reasons", "versions", "aliases", "error"}


class NightLog:
    """Writes a night's file whenever something changed; `path`: what is like a night, elsewhere."""

    def __init__(self, workspace: Workspace, night: str, path: Path | None = None) -> None:
        self._path = path or night_file(workspace.checkout, night)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.now = NightState(night=night, workspace=str(workspace.path), pid=os.getpid())
        self.write()

    def write(self) -> None:
        """Write the night as it is now."""
        write_atomically(self._path, self.now.model_dump_json(by_alias=True, indent=1) + "\n")

    def begin(self, step: str) -> None:
        """Say what the night does now."""
        self.now.step = step
        self.write()

    def plan(self, names: Sequence[str]) -> None:
        """Name the stages to come."""
        self.now.stages = [StageEntry(name=name) for name in names]
        self.write()

    def start(self, name: str) -> None:
        """Say that a stage runs now."""
        self._entry(name).state = "running"
        self.begin(name)

    def finish(self, outcome: StageOutcome) -> None:
        """Say how a stage went."""
        entry = self._entry(outcome.name)
        entry.state, entry.seconds = outcome.state, round(outcome.seconds, 1)
        self.write()

    def failed_in(self, stage: str) -> bool:
        """Return whether a stage was begun and has not ended."""
        return any(entry.name == stage and entry.state == "running" for entry in self.now.stages)

    def fail(self, error: BaseException) -> None:
        """Say why the night failed; a stage that ran then failed too."""
        for entry in self.now.stages:
            if entry.state == "running":
                entry.state = "failed"
        self.now.verdict = "failed"
        self.now.error = error_entry(error)
        self.write()

    def _entry(self, name: str) -> StageEntry:
        return next(entry for entry in self.now.stages if entry.name == name)


def error_entry(error: BaseException) -> ErrorEntry:
    """Return an error as it is reported."""
    # TerminationSignal is what Prefect makes of SIGTERM; to import it here would cost seconds.
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TerminationSignal":
        failure = Failure("Interrupted", "the night was interrupted", "run it again: it goes on")
    else:
        failure = replace(Failure.of(error), error=error_class(error))
    content = {"class": failure.error, "message": failure.message, "remedy": failure.remedy}
    return ErrorEntry.model_validate(content)


def new_night_name(now: datetime) -> str:
    """Return a name that sorts by time."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def night_file(checkout: Path, night: str) -> Path:
    """Return where a night's file lies."""
    return checkout / STATE / "nights" / f"{night}.json"


def read_night(path: Path) -> NightState:
    """Read the night in a file."""
    return NightState.model_validate_json(path.read_text(encoding="utf-8"))


def last_nights(checkout: Path, count: int) -> list[NightState]:
    """Return the last nights, newest first."""
    paths = sorted((checkout / STATE / "nights").glob("[!.]*.json"), reverse=True)
    return [read_night(path) for path in paths[:count]]


def night_report(night: NightState) -> str:
    """Return the one JSON object that `nightloom run --json` prints."""
    return night.model_dump_json(include=_REPORTED, by_alias=True, indent=1)


def failed_night_report(now: datetime) -> dict[str, Any]:
    """Return what that object says of a night that failed before it began."""
    night = NightState(night=new_night_name(now), verdict="failed", workspace="", pid=os.getpid())
    return night.model_dump(include=_REPORTED, by_alias=True)
