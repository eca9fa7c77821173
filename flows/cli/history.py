"""`nightloom history`: the last nights in a table, and the page that shows them."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.options import HERE, Json, Root, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from tasks.orchestration.history import PastNight
    from tasks.orchestration.night_figures import Score


def history(
    root: Root = HERE,
    nights: Annotated[int, typer.Option(min=1, help="How many nights.")] = 60,
    as_json: Json = False,
) -> None:
    """Show the last nights: scores, verdicts, champions, rows, minutes; write the page of them."""
    with checkout_at(root, as_json) as checkout:
        from flows.environment import find_stores
        from flows.history import read_history, write_history

        found = read_history(checkout, find_stores(checkout), nights)
        page = write_history(checkout, found)
    if as_json:
        print_json(found)
        return
    console = make_console()
    console.print(history_table(found) if found else "no night has run here yet: nightloom run")
    console.print(f"with a picture: {page}", highlight=False, markup=False, soft_wrap=True)


def history_table(nights: "list[PastNight]") -> Table:
    """Return the nights as rows, newest first, in 80 columns."""
    table = Table(box=None, title="last nights", title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("night", no_wrap=True)
    for heading in ("verdict", "adapter", "student", "champion"):
        table.add_column(heading)
    for heading in ("rows in,\nrefused", "min"):
        table.add_column(heading, justify="right")
    for night in nights:
        champions = [f"{model} {text.split()[0]}" for model, text in night.champions.items()]
        rows = ["-" if n is None else f"{n:,}" for n in (night.rows, night.quarantined)]
        table.add_row(
            night.night,
            night.verdict,
            *(_cell(night.scores.get(name)) for name in ("adapter", "student")),
            "\n".join(champions) or "-",
            "\n".join(rows),
            "-" if night.total_minutes is None else f"{night.total_minutes:.1f}",
        )
    return table


def _cell(score: "Score | None") -> str:
    """Return a score, and its interval in a second line."""
    if score is None:
        return "-"
    interval = "" if score.low is None else f"\n{score.low:.3f}-{score.high:.3f}"
    return f"{score.value:.3f}{interval}"
