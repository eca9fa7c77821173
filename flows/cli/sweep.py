"""`nightloom sweep`: search hyperparameters, and show what each trial came to."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from flows.cli.options import HERE, NO_OVERRIDES, Json, Preset, Root, Set, checkout_at, print_json
from flows.cli.run import flows_ready, stdout_to_stderr
from flows.console import make_console

if TYPE_CHECKING:
    from flows.study import Tried
    from flows.sweep import Sweep


def sweep(
    root: Root = HERE, preset: Preset = None, set_: Set = NO_OVERRIDES, as_json: Json = False
) -> None:
    """Search hyperparameters as params/sweep.yaml says; an interrupted sweep goes on."""
    with checkout_at(root, as_json) as checkout:
        found = _run_sweep(checkout, preset, set_)
    if as_json:
        print_json(found)
    else:
        _print_sweep(make_console(), found, preset, set_)


def _run_sweep(checkout: Path, preset: str | None, overrides: Sequence[str]) -> "Sweep":
    """Run a sweep; its trials are told on stderr as they end.

    Raises:
        NightloomError: it could not begin, or gave no value.
    """
    from flows.overrides import without_file
    from flows.shutdown import interrupt_on_signals
    from flows.study import read_sweep
    from flows.workspace import check_unlocked, choose_workspace

    read_sweep(checkout, preset, overrides)  # what is wrong is told before Prefect starts
    check_unlocked(choose_workspace(checkout, preset, without_file("sweep", overrides)).lock)
    interrupt_on_signals(hurry=True)
    with stdout_to_stderr(active=True), flows_ready(checkout, "sweep"):
        from flows.sweep import sweep as run_flow

        return run_flow(root=str(checkout), preset=preset, overrides=list(overrides))


def _best_first(found: "Sweep") -> "list[Tried]":
    """Return the trials that have a value, the best first, and then the others."""
    sign = 1 if found.goal == "minimize" else -1
    worst = float("inf")
    return sorted(found.trials, key=lambda item: worst if item.value is None else sign * item.value)


def _print_sweep(
    console: Console, found: "Sweep", preset: str | None, overrides: Sequence[str]
) -> None:
    """Print a sweep's trials, best first, and the best one's values as a change of params."""
    from flows.overrides import override_text, shown_value, without_file

    names = sorted(found.best)
    table = Table("trial", "state", "value", *names, title=f"sweep {found.study}")
    for trial in _best_first(found):
        value = "" if trial.value is None else f"{trial.value:.4f}"
        cells = [shown_value(trial.params.get(name, "")) for name in names]
        table.add_row(str(trial.number), trial.state, value, *cells)
    console.print(table)
    console.print(found.as_params(), highlight=False, markup=False)
    given = [] if preset is None else ["--preset", preset]
    for text in (
        *without_file("sweep", overrides),
        *(override_text(*item) for item in found.best.items()),
    ):
        given += ["--set", text]
    console.print(
        f"to try a night with them: nightloom run {shlex.join(given)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
