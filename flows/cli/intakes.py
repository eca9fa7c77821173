"""`nightloom intakes`: list what nights took in, and take an intake back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import HERE, By, Json, Reason, Root, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from flows.intakes import ListedIntake

app = typer.Typer(add_completion=False, invoke_without_command=True)


@app.callback()
def show(context: typer.Context, root: Root = HERE, as_json: Json = False) -> None:
    """List the intakes of the checkout and its workspaces, oldest first."""
    if context.invoked_subcommand is not None:
        return
    with checkout_at(root, as_json) as checkout:
        from flows.intakes import list_all

        found = list_all(checkout)
    if as_json:
        print_json({"intakes": found})
    else:
        _print_intakes(found)


@app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="An intake's name, as the list shows it.")],
    reason: Reason,
    undo: Annotated[
        bool, typer.Option("--undo", help="Make an intake current again that was withdrawn.")
    ] = False,
    by: By = None,
    root: Root = HERE,
    as_json: Json = False,
) -> None:
    """Take an intake out of what is current, from the next night on, wherever it lies.

    Its folder stays as it is. Its rows count as new again, so that the next night takes in what its
    source has of them.
    """
    with checkout_at(root, as_json) as checkout:
        from flows.intakes import list_all, take_back
        from flows.promoter import deciding, operating_user

        with deciding(checkout) as promoter:
            by = by or operating_user()
            entry = take_back(promoter, checkout, name, reason=reason, by=by, undo=undo)
        left = [item for item in list_all(checkout) if item.intake.withdrawn is None]
    if as_json:
        print_json({"intake": name, "withdrawn": not undo, "entry": entry.number})
        return
    console = make_console()
    what = "is current again" if undo else "is withdrawn"
    console.print(f"intake {name} {what} from the next night on", highlight=False)
    if not left:
        console.print("no intake is current now: the next night takes in what its source has")


def _print_intakes(found: "Sequence[ListedIntake]") -> None:
    """Print intakes for people."""
    console = make_console()
    if not found:
        console.print("nothing was taken in yet: `nightloom run` does it")
        return
    for item in found:
        one = item.intake
        when = one.when.removesuffix("+00:00").replace("T", " ")
        counted = f"{one.records} records, {one.documents} documents, {one.faulty} faulty"
        counted += f", {one.erased} erased" if one.erased else ""
        places = "" if "checkout" in item.workspaces else f"  in {', '.join(item.workspaces)}"
        line = f"{one.name}  {when}  {one.source}  {counted}{places}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        if one.withdrawn is not None:
            told = f"  withdrawn {one.withdrawn.when[:10]} by {one.withdrawn.by}: "
            told += one.withdrawn.reason
            console.print(told, markup=False, highlight=False, soft_wrap=True)
