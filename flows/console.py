"""What people see of a night: a live table while it runs, the scores and the verdict at its end."""

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.records.schema import FEEDBACK_SPLIT
from tasks.stage.metrics import METRICS_FILE, PROGRESS, CurveFollower, read_metrics
from tasks.task_types.table import evaluated_task

if TYPE_CHECKING:
    from flows.run_state import ErrorEntry, NightState
    from flows.servers import Services
    from flows.workspace import Workspace


# How what the table's cells hold is called.
_NAMES = {"token_f1": "token F1", "macro_f1": "macro F1", "rouge_l": "ROUGE-L", "chrf": "chrF"}

_PAGE = "report.html"


def print_summary(
    console: Console,
    night: "NightState",
    evaluation: Path,
    services: "Services | None",
    *,
    verbose: bool = False,
) -> None:
    """Print the end of a night: the verdicts first, then what is against them, then the scores."""
    from flows.run_state import VERDICTS

    colour = VERDICTS[night.verdict or "failed"].colour
    console.print(f"night {night.night}: [bold {colour}]{night.told_verdict}[/]", highlight=False)
    for model, found in sorted(night.models.items()):
        console.print(f"  {model}: {found.headline}{_place(night, model)}", highlight=False)
    if night.error is not None:
        print_error(console, night.error)
    for line in night.told_left_out:
        console.print(f"  - {line}", style="yellow", highlight=False, markup=False)
    for reason in night.reasons:
        # Unwrapped, or the path of a file would be broken where the line is full.
        console.print(f"  - {reason}", highlight=False, markup=False, soft_wrap=True)
    _print_passed(console, night, verbose=verbose)
    if night.steps:
        console.print(f"  rows: {'; '.join(map(str, night.steps))}", highlight=False)
    scored = night.error is None and _has_evaluated(night)
    if scored and (evaluation / METRICS_FILE).exists():
        console.print(score_table(read_metrics(evaluation)))
    if scored and (evaluation / _PAGE).exists():
        page = f"every answer side by side, worst first: {evaluation / _PAGE}"
        console.print(page, highlight=False, markup=False, soft_wrap=True)
    console.print(_where(services), highlight=False, markup=False, soft_wrap=True)


def _place(night: "NightState", model: str) -> str:
    """Return a model's version of the night and the aliases that name it."""
    number = night.versions.get(model)
    if number is None:
        return ""
    named = [name for name, value in night.aliases.get(model, {}).items() if value == number]
    return f" - version {number} ({', '.join(named) or 'no alias'})"


def _print_passed(console: Console, night: "NightState", *, verbose: bool) -> None:
    """Print the rules that have nothing against a model, or how many they are."""
    passed = {model: found.passed for model, found in sorted(night.models.items())}
    if verbose:
        for line in (line for lines in passed.values() for line in lines):
            console.print(f"  - {line}", highlight=False, markup=False)
    elif any(passed.values()):
        counts = ", ".join(
            f"{len(lines)} of the {model}" for model, lines in passed.items() if lines
        )
        console.print(
            f"  rules that passed or are off: {counts} (--verbose shows them)", highlight=False
        )


def score_table(metrics: dict[str, Any]) -> Table:
    """Return systems by modes, with token F1 and exact match in each cell, or the scores that
    another task shows.
    """
    shown = evaluated_task(metrics).shown
    systems: dict[str, dict[str, dict[str, float | None]]] = metrics["systems"]
    modes = list(dict.fromkeys(mode for found in systems.values() for mode in found))
    beside = f"; {FEEDBACK_SPLIT} is a split of its own" if FEEDBACK_SPLIT in modes else ""
    table = Table(title=f"{' / '.join(map(_shown, shown))} on the test split{beside}")
    table.add_column("system")
    for mode in modes:
        table.add_column(mode, justify="right")
    for system, found in systems.items():
        table.add_row(system, *(_cell(found.get(mode, {}), shown) for mode in modes))
    return table


def print_error(console: Console, error: "ErrorEntry") -> None:
    """Print why a night failed and what to do."""
    console.print(f"{error.kind}: {error.message}", style="red", highlight=False, markup=False)
    told = f"  what to do: {error.remedy}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _has_evaluated(night: "NightState") -> bool:
    """Return whether the scores there are this night's: a gate may have refused it before."""
    states = {entry.name: entry.state for entry in night.stages}
    return states.get("evaluation") not in ("not_run", "running", "failed")


def _shown(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def _cell(values: dict[str, float | None], shown: tuple[str, ...]) -> str:
    numbers = [values.get(name) for name in shown]
    return " / ".join("-" if number is None else f"{number:.3f}" for number in numbers)


def _where(services: "Services | None") -> str:
    if services is not None:
        return f"Prefect: {services.prefect}   MLflow: {services.mlflow}"
    return "to look at runs and models: nightloom up   (Prefect's and MLflow's pages)"


def make_console(*, to_stderr: bool = False) -> Console:
    """Return the console for people: stdout, or stderr if stdout is for a program."""
    return Console(file=sys.stderr if to_stderr else sys.stdout)


_MARKS = {
    "executed": ("green", "done"),
    "restored": ("green", "restored"),
    "skipped": ("dim", "current"),
    "failed": ("bold red", "failed"),
    "running": ("bold cyan", "running"),
    "not_run": ("dim", ""),
}

_INTERVAL_SECONDS = 0.5


class Progress:
    """How far a stage that runs is, by the curves that it has written since a time in seconds."""

    def __init__(self, scratch: Path, since: float) -> None:
        self.share: float | None = None
        self.loss: float | None = None
        self._curves = CurveFollower(scratch)
        self._since_ms = since * 1000

    def update(self) -> None:
        """Take in the points that are new."""
        for point in self._curves.new_points():
            if point["timestamp_ms"] < self._since_ms:
                continue
            if point["name"] == PROGRESS:
                self.share = point["value"]
            elif "loss" in point["name"]:
                self.loss = point["value"]


class NightView:
    """Shows a night from its file in a thread of its own, until the block ends."""

    def __init__(self, workspace: "Workspace", night: str, console: Console) -> None:
        from flows.run_state import night_file

        self._file = night_file(workspace.checkout, night)
        self._scratch = workspace.path / workspace.paths().scratch
        self._console = console
        self._stop = threading.Event()
        self._begun = {"": time.time()}
        self._progress: dict[str, Progress] = {}
        self._said: set[str] = set()
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._thread = threading.Thread(target=self._follow, name="view", daemon=True)

    def __enter__(self) -> "NightView":
        """Start to show."""
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last state and stop."""
        self._stop.set()
        self._thread.join()
        self._show()
        if self._live:
            self._live.stop()

    def _follow(self) -> None:
        self._show()
        while not self._stop.wait(_INTERVAL_SECONDS):
            self._show()

    def _show(self) -> None:
        from flows.run_state import read_night

        if not self._file.exists():
            if self._live:
                self._live.update(Text("starting Prefect ...", style="dim"))
            return
        night = read_night(self._file)
        self._begun.setdefault(night.step, time.time())
        if self._live:
            self._live.update(self._table(night))
        else:
            self._say(night)

    def _say(self, night: "NightState") -> None:
        """Print what was not said yet, a line each."""
        lines = [
            f"{entry.name}: {entry.state} ({entry.seconds:.1f} s)"
            for entry in night.stages
            if entry.state not in ("running", "not_run")
        ]
        if night.verdict is None:
            lines.append(f"{night.step} ...")
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                self._console.print(line, highlight=False, soft_wrap=True)

    def _table(self, night: "NightState") -> RenderableType:
        table = Table(box=None, padding=(0, 2), show_header=False)
        for entry in night.stages:
            style, mark = _MARKS[entry.state]
            seconds = f"{entry.seconds:.1f} s" if entry.seconds else ""
            detail: RenderableType = ""
            if entry.state == "running":
                elapsed = time.time() - self._begun[entry.name]
                seconds = f"{elapsed:.0f} s"
                detail = self._detail(entry.name, elapsed)
            table.add_row(entry.name, Text(mark, style=style), seconds, detail)
        return Group(Text(f"night {night.night}: {night.step}", style="bold"), table)

    def _detail(self, stage: str, elapsed: float) -> RenderableType:
        """Return a bar, the loss and the time left of the stage that runs."""
        if stage not in self._progress:
            self._progress[stage] = Progress(self._scratch / stage, self._begun[stage])
        progress = self._progress[stage]
        progress.update()
        parts = []
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        if progress.share:
            left = elapsed * (1 - progress.share) / progress.share
            parts.append(f"{left:.0f} s left")
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=progress.share or 0.0, width=30)
        row.add_row(bar if progress.share is not None else "", ", ".join(parts))
        return row
