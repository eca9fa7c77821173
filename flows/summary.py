"""What people see when a night is over: the table, the verdict and where to look."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from flows.nights import ErrorEntry, Night
from flows.overrides import override_text, shown, without
from flows.services import Services
from tasks.stage.metrics import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from flows.sweep import Sweep

_METRICS = ("token_f1", "exact_match")
_PAGE = "report.html"
_COLOURS = {"promoted": "green", "refused": "yellow", "unchanged": "cyan", "failed": "red"}


def print_summary(
    console: Console, night: Night, evaluation: Path, services: Services | None
) -> None:
    """Print the end of a night."""
    scored = night.verdict != "failed" and _has_evaluated(night)
    if scored and (evaluation / METRICS_FILE).exists():
        console.print(score_table(read_metrics(evaluation)))
    colour = _COLOURS[night.verdict or "failed"]
    console.print(f"night {night.night}: [bold {colour}]{night.verdict}[/]", highlight=False)
    for reason in night.reasons:
        console.print(f"  - {reason}", highlight=False, markup=False)
    if night.error is not None:
        print_error(console, night.error)
    for model, number in night.versions.items():
        if number is not None:
            named = [
                name for name, value in night.aliases.get(model, {}).items() if value == number
            ]
            console.print(f"  {model}: version {number} ({', '.join(named) or 'no alias'})")
    if scored and (evaluation / _PAGE).exists():
        page = f"every answer side by side, worst first: {evaluation / _PAGE}"
        console.print(page, highlight=False, markup=False, soft_wrap=True)
    console.print(_where(services), highlight=False, markup=False, soft_wrap=True)


def print_sweep(
    console: Console, found: "Sweep", preset: str | None, overrides: Sequence[str]
) -> None:
    """Print a sweep's trials, best first, and the best one's values as a change of params."""
    names = sorted(found.best)
    table = Table("trial", "state", "value", *names, title=f"sweep {found.study}")
    worst = float("inf")
    for trial in sorted(found.trials, key=lambda item: worst if item.value is None else item.value):
        value = "" if trial.value is None else f"{trial.value:.4f}"
        cells = [shown(trial.params.get(name, "")) for name in names]
        table.add_row(str(trial.number), trial.state, value, *cells)
    console.print(table)
    console.print(found.as_params(), highlight=False, markup=False)
    given = [] if preset is None else ["--preset", preset]
    for text in (
        *without("sweep", overrides),
        *(override_text(*item) for item in found.best.items()),
    ):
        given += ["--set", text]
    console.print(
        f"to try a night with them: nightloom run {shlex.join(given)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def score_table(metrics: dict[str, Any]) -> Table:
    """Systems by modes, token F1 and exact match in each cell."""
    systems: dict[str, dict[str, dict[str, float | None]]] = metrics["systems"]
    modes = list(dict.fromkeys(mode for found in systems.values() for mode in found))
    table = Table(title="token F1 / exact match on the test split")
    table.add_column("system")
    for mode in modes:
        table.add_column(mode, justify="right")
    for system, found in systems.items():
        table.add_row(system, *(_cell(found.get(mode, {})) for mode in modes))
    return table


def print_error(console: Console, error: ErrorEntry) -> None:
    """Print why a night failed and what to do."""
    console.print(f"{error.kind}: {error.message}", style="red", highlight=False, markup=False)
    console.print(f"  what to do: {error.remedy}", highlight=False, markup=False)


def _has_evaluated(night: Night) -> bool:
    """Whether the scores that lie there are this night's: a gate may have refused it before."""
    states = {entry.name: entry.state for entry in night.stages}
    return states.get("evaluation") not in ("not_run", "running", "failed")


def _cell(values: dict[str, float | None]) -> str:
    numbers = [values.get(name) for name in _METRICS]
    return " / ".join("-" if number is None else f"{number:.3f}" for number in numbers)


def _where(services: Services | None) -> str:
    if services is not None:
        return f"Prefect: {services.prefect}   MLflow: {services.mlflow}"
    return "to look at runs and models: nightloom up   (Prefect's and MLflow's pages)"


def make_console(*, to_stderr: bool) -> Console:
    """The console for people: stdout, or stderr where stdout is for a program."""
    return Console(file=sys.stderr if to_stderr else sys.stdout)
