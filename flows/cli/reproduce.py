"""`nightloom reproduce`: make a registered version again, and compare digests stage by stage."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows import EXIT_FAILED
from flows.cli.options import HERE, Json, ModelName, Root, Which, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from flows.differences import Compared
    from flows.reproduction import Reproduction

_DIGEST = 10
_NAMED = 3


def reproduce(
    version: Annotated[int, typer.Argument(help="Its number.")],
    root: Root = HERE,
    model: Which = ModelName.adapter,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Compare only what the stages read; run none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a version again from its code, params and rows, and compare it stage by stage.

    It takes as long as its night did. It exits with 1 where something differs or is missing; wall
    clock times in reports may differ.
    """
    with checkout_at(root, as_json) as checkout:
        from flows.reproduction import reproduce as make_again

        console = make_console(to_stderr=as_json)
        found = make_again(
            checkout, model.value, version, lambda text: _say(console, text), run=not inputs
        )
    if as_json:
        print_json({"is_same": found.is_same, **vars(found)})
    else:
        _print(console, found)
    raise SystemExit(0 if found.is_same else EXIT_FAILED)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _print(console: Console, found: "Reproduction") -> None:
    """Print a row for each out and for each input that is not the same."""
    table = Table("stage", "what", "registered", "now", "", box=None, padding=(0, 2, 0, 0))
    for one in found.compared:
        if one.what == "out" or one.status != "same":
            table.add_row(one.stage, one.name, *_digests(one), one.status)
    console.print(table)
    for one in found.compared:
        if one.files:
            more = f" and {len(one.files) - _NAMED} more" if len(one.files) > _NAMED else ""
            _say(console, f"{one.name} differs in {', '.join(one.files[:_NAMED])}{more}")
    if found.error is not None:
        _say(console, found.error)
    same = sum(one.status.startswith("same") for one in found.compared)
    what = "is reproduced" if found.is_same else "is not reproduced"
    _say(console, f"{found.version} {what}: {same} of {len(found.compared)} are the same")
    _say(console, f"it lies in {found.folder}; `git worktree remove --force` deletes it")


def _digests(one: "Compared") -> tuple[str, str]:
    if one.what == "params":
        return "", ""
    return (one.registered or "-")[:_DIGEST], (one.now or "-")[:_DIGEST]
