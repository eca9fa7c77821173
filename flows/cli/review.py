"""`nightloom review`: the served questions that are most worth a person's time."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from flows.cli.options import HERE, Json, Root, checkout_at, one_line, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from flows.review import Review

_SHOWN = 10
_SHOWN_CHARACTERS = 200


def review(
    root: Root = HERE,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Most questions to look at.")] = 50,
    as_json: Json = False,
) -> None:
    """Fill MLflow's review queue with served questions, the doubtful ones first."""
    with checkout_at(root, as_json) as checkout:
        from flows.environment import find_stores
        from flows.review import fill_review_queue

        found = fill_review_queue(checkout, find_stores(checkout), limit)
    if as_json:
        print_json(found)
        return
    console = make_console()
    if not found.kept:
        console.print("no served question is kept: `nightloom serve --log` keeps them")
    elif not found.waiting:
        console.print(f"people have answered for all {found.kept} served questions")
    else:
        waiting = f"{len(found.waiting)} of {found.kept} served questions wait for a person:"
        console.print(waiting, highlight=False)
        console.print(_table(found))
    if found.waiting:
        where = found.page or "`nightloom up` starts MLflow, whose page shows the queue"
        console.print(f"mark and correct them: {where}", markup=False, soft_wrap=True)


def _table(found: "Review") -> Table:
    """Return the first of the waiting questions, in 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("question", "answer", "why"):
        table.add_column(heading, overflow="fold")
    for one in found.waiting[:_SHOWN]:
        table.add_row(_short(one.question), _short(one.answer), Text(one.reason))
    if len(found.waiting) > _SHOWN:
        table.caption = f"and {len(found.waiting) - _SHOWN} more"
    return table


def _short(text: str) -> Text:
    return Text(one_line(text, _SHOWN_CHARACTERS))
