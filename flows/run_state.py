"""What a night leaves for people and commands: its state, verdict and error, in a file."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from flows import EXIT_FAILED, EXIT_REFUSED
from flows.workspace import STATE, Workspace, holders
from tasks.orchestration.night_figures import NightFigures, RowStep
from tasks.orchestration.notify import Verdict
from tasks.orchestration.stages import StageOutcome
from tasks.records.schema import ServedModel
from tasks.services.processes import TIME_LIMIT, StageError, error_class
from tasks.stage.errors import STAGE_LOG, Failure, NightloomError
from tasks.stage.outputs import write_atomically

ModelOutcome = Literal["promoted", "refused", "unchanged"]


@dataclass(frozen=True)
class VerdictKind:
    """What a night's verdict is for those who wait for it.

    `exit_code` is that of `nightloom run`, `state` the type of the flow run's state in Prefect
    (its name is the verdict), `level` that of the line in Prefect's log.
    """

    exit_code: int
    state: Literal["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]
    level: Literal["info", "warning", "error"]
    colour: str


VERDICTS: dict[Verdict, VerdictKind] = {
    "promoted": VerdictKind(0, "COMPLETED", "info", "green"),
    "partly_promoted": VerdictKind(EXIT_REFUSED, "COMPLETED", "warning", "yellow"),
    "refused": VerdictKind(EXIT_REFUSED, "COMPLETED", "warning", "yellow"),
    "unchanged": VerdictKind(0, "COMPLETED", "info", "cyan"),
    "failed": VerdictKind(EXIT_FAILED, "FAILED", "error", "red"),
    "timed_out": VerdictKind(EXIT_FAILED, "FAILED", "error", "red"),
    "cancelled": VerdictKind(EXIT_FAILED, "CANCELLED", "warning", "red"),
    "crashed": VerdictKind(EXIT_FAILED, "CRASHED", "error", "red"),
}
_LINE_CHARACTERS = 200  # of a night in one line

_RAN = ("executed", "restored")  # tonight

StageStateNow = Literal["executed", "restored", "skipped", "failed", "not_run", "running"]


class StageEntry(BaseModel):
    """One stage of a night; `running` only while the night lasts.

    What it took while it ran: `memory_mb` at its peak, `disk_mb` of free space that went; null of
    one that did not run, or of before 0.3.
    """

    name: str
    state: StageStateNow = "not_run"
    seconds: float = 0.0
    memory_mb: int | None = None
    disk_mb: int | None = None


class ErrorEntry(BaseModel):
    """Why a night failed."""

    kind: str = Field(alias="class")
    message: str
    remedy: str


class ModelVerdict(BaseModel):
    """What became of one model's version.

    `headline` says it in a few words; `reasons` are what refused it or warns of it, `passed` the
    rules that have nothing against it.
    """

    verdict: ModelOutcome
    headline: str
    reasons: list[str] = []
    passed: list[str] = []


class Telling(BaseModel):
    """An ending that was told: each channel, and why it failed or null."""

    verdict: Verdict
    time: datetime
    channels: dict[str, str | None]


class NightRequest(BaseModel):
    """What a night was asked for, so that it can be run again."""

    preset: str | None = None
    overrides: list[str] = []
    only_release: bool = False


class NightState(BaseModel):
    """One night, whole or so far; `verdict` is null while it runs.

    `models` are empty before the release, and in nights of before 0.3; `reasons` are all models',
    and notes of the release; `steps` what each step left of the rows, as far as the night came.
    `left_out` says of sources why they were not read. `ended` is when the verdict was written,
    `told` whom it was told to: both are null in nights of before 0.3. `links` are title -> address.
    `request` is null of a night that no deployment started, `flow_run` is its id in Prefect, and
    `again` names the night that ran this one again after it was interrupted.
    """

    night: str
    verdict: Verdict | None = None
    models: dict[ServedModel, ModelVerdict] = {}
    stages: list[StageEntry] = []
    steps: list[RowStep] = []
    reasons: list[str] = []
    left_out: dict[str, str] = {}
    versions: dict[str, int | None] = {"adapter": None, "student": None}
    aliases: dict[str, dict[str, int]] = {"adapter": {}, "student": {}}
    error: ErrorEntry | None = None
    workspace: str
    step: str = "starting"
    pid: int
    ended: datetime | None = None
    told: list[Telling] | None = None
    links: dict[str, str] = {}
    mlflow_run: str | None = None
    figures: NightFigures | None = None
    request: NightRequest | None = None
    flow_run: str | None = None
    again: str | None = None

    @property
    def told_verdict(self) -> str:
        """Return the verdict as people read it."""
        return str(self.verdict).replace("_", " ")

    @property
    def told_left_out(self) -> list[str]:
        """Return a line a source that was left out."""
        return [f"source {name} was left out: {why}" for name, why in self.left_out.items()]

    def headline(self) -> str:
        """Return the night in one line of at most 200 characters, what was refused first."""
        found = sorted(self.models.items(), key=lambda item: item[1].verdict != "refused")
        text = "; ".join(f"{model}: {item.headline}" for model, item in found)
        if not text and self.error is not None:
            text = f"{self.error.kind}: {self.error.message}"
        line = " ".join((text or "; ".join(self.reasons)).split())
        return line if len(line) <= _LINE_CHARACTERS else f"{line[: _LINE_CHARACTERS - 3]}..."


def combined_verdict(outcomes: Iterable[ModelOutcome]) -> Verdict:
    """Return the night's verdict where the models' are these."""
    found = set(outcomes)
    if found >= {"promoted", "refused"}:
        return "partly_promoted"
    if "refused" in found:
        return "refused"
    return "promoted" if "promoted" in found else "unchanged"


_REPORTED = {
    "night", "verdict", "models", "stages", "steps", "reasons", "left_out", "versions", "aliases",
    "error",
}  # fmt: skip


class NightLog:
    """Writes a night's file whenever something changed; `path`: what is like a night, elsewhere.

    There is no file before the first `write`: until then nobody can take the night for one that
    was cut short.
    """

    def __init__(self, workspace: Workspace, night: str, path: Path | None = None) -> None:
        self._path = path or night_file(workspace.checkout, night)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.now = NightState(night=night, workspace=str(workspace.path), pid=os.getpid(), told=[])
        # Why the night is being ended, where it is not whoever interrupts it that wants it.
        self.cause: NightloomError | None = None
        self._earlier: dict[str, StageEntry] = {}

    def write(self) -> None:
        """Write the night as it is now."""
        self.now.ended = datetime.now(UTC) if self.now.verdict else None
        write_night(self._path, self.now)

    def begin(self, step: str) -> None:
        """Say what the night does now."""
        self.now.step = step
        self.write()

    def plan(self, names: Sequence[str]) -> None:
        """Name the stages to come; those that ran in this night before are planned again."""
        ran = {entry.name: entry for entry in self.now.stages if entry.state in _RAN}
        self._earlier |= ran
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
        if outcome.state == "skipped" and outcome.name in self._earlier:
            self.now.stages[self.now.stages.index(entry)] = self._earlier[outcome.name]
        self.write()

    def done(self) -> set[str]:
        """Return the stages whose outs are tonight's."""
        return {entry.name for entry in self.now.stages
                if entry.state in ("executed", "restored", "skipped")}  # fmt: skip

    def failed_in(self, stage: str) -> bool:
        """Return whether a stage was begun and has not ended."""
        return any(entry.name == stage and entry.state == "running" for entry in self.now.stages)

    def fail(self, error: BaseException) -> ErrorEntry:
        """Return why the night failed, once it is noted; a stage that ran then failed too."""
        if self.cause is not None and is_interrupt(error):
            error = self.cause
        for entry in self.now.stages:
            if entry.state == "running":
                entry.state = "failed"
        self.now.verdict = ended_by(error)
        told = error_entry(error)
        told.remedy = self.with_log(told.remedy)
        self.now.error = told
        self.write()
        return told

    def with_log(self, text: str) -> str:
        """Return a text in which the stage's log has its place."""
        log = self._path.parent.parent / "logs" / f"{self.now.night}.log"
        place = str(log) if log.exists() else "the page of the flow run in Prefect"
        return text.replace(STAGE_LOG, f"{STAGE_LOG} ({place})")

    def _entry(self, name: str) -> StageEntry:
        return next(entry for entry in self.now.stages if entry.name == name)


def error_entry(error: BaseException) -> ErrorEntry:
    """Return an error as it is reported."""
    if is_interrupt(error):
        failure = Failure("Interrupted", "the night was interrupted", "run it again: it goes on")
    else:
        failure = replace(Failure.of(error), error=error_class(error))
    content = {"class": failure.error, "message": failure.message, "remedy": failure.remedy}
    return ErrorEntry.model_validate(content)


def ended_by(error: BaseException) -> Verdict:
    """Return the verdict of a night that an error ended."""
    if is_interrupt(error):
        return "cancelled"
    return "timed_out" if error_class(error) == TIME_LIMIT else "failed"


def is_interrupt(error: BaseException) -> bool:
    """Return whether somebody ended the night: Ctrl-C, a signal, a cancelled run."""
    # TerminationSignal is what Prefect makes of SIGTERM; to import it here would cost seconds.
    # rich exits by itself where who reads its lines, a worker, is gone.
    interrupts = isinstance(error, KeyboardInterrupt | SystemExit)
    return interrupts or type(error).__name__ == "TerminationSignal"


def new_night_name(now: datetime) -> str:
    """Return a name that sorts by time."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def night_file(checkout: Path, night: str) -> Path:
    """Return where a night's file lies."""
    return checkout / STATE / "nights" / f"{night}.json"


def read_night(path: Path) -> NightState:
    """Read the night in a file."""
    return NightState.model_validate_json(path.read_text(encoding="utf-8"))


def write_night(path: Path, night: NightState) -> None:
    """Write a night into its file."""
    write_atomically(path, night.model_dump_json(by_alias=True, indent=1) + "\n")


def last_nights(checkout: Path, count: int) -> list[NightState]:
    """Return the last nights, newest first; one whose process is gone without a word crashed."""
    paths = sorted((checkout / STATE / "nights").glob("[!.]*.json"), reverse=True)[:count]
    gone = _gone(paths, checkout)
    return [gone.get(path) or read_night(path) for path in paths]


def abandoned_nights(checkout: Path, count: int) -> list[NightState]:
    """Return those of the last nights whose files say that they run, and that no process holds.

    They have the verdict `crashed` here, and not in their files.
    """
    paths = sorted((checkout / STATE / "nights").glob("[!.]*.json"), reverse=True)[:count]
    return list(_gone(paths, checkout).values())


def _gone(paths: Sequence[Path], checkout: Path) -> dict[Path, NightState]:
    """Return the nights whose process is gone without a word, as crashed."""
    open_ = [path for path in paths if read_night(path).verdict is None]
    if not open_:
        return {}
    running = set(holders(checkout).values())  # a night that ends meanwhile has written its verdict
    found = {}
    for path in open_:
        night = read_night(path)
        if night.verdict is None and not running & {night.pid, 0}:  # 0: not known who
            mark_crashed(night)
            found[path] = night
    return found


def mark_crashed(night: NightState) -> None:
    """Give a night whose process is gone without a word the verdict `crashed`."""
    night.verdict, night.error = "crashed", error_entry(_killed(night))


def _killed(night: NightState) -> StageError:
    return StageError(
        f"its process {night.pid} ended in {night.step} without a word: it was killed, or the "
        "machine went down",
        "`nightloom up` runs its nights again, once; else run it again: it goes on from there; "
        "`dmesg` says whether memory ran out",
        "Killed",
    )


def night_report(night: NightState) -> str:
    """Return the one JSON object that `nightloom run --json` prints."""
    return night.model_dump_json(include=_REPORTED, by_alias=True, indent=1)


def failed_night_report(now: datetime) -> dict[str, Any]:
    """Return what that object says of a night that failed before it began."""
    night = NightState(night=new_night_name(now), verdict="failed", workspace="", pid=os.getpid())
    return night.model_dump(include=_REPORTED, by_alias=True)
