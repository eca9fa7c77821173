"""`nightloom backup`, `restore` and `upgrade`: what is kept, saved, brought back and carried on."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import HERE, Json, Root, checkout_at, print_json
from flows.console import make_console


def backup(
    to: Annotated[Path, typer.Option("--to", help="A new or empty folder.")],
    root: Root = HERE,
    as_json: Json = False,
) -> None:
    """Save stores, artifacts, models, data and params in a folder; servers may be up.

    Secrets and logs are left out. What was erased later is in the backup still: `restore` erases it
    again, if it gets the list.
    """
    with checkout_at(root, as_json) as checkout:
        from flows.backup import write_backup

        note = write_backup(checkout, to)
    if as_json:
        print_json(note)
        return
    console = make_console()
    console.print(f"{note.files} files in {note.place}", highlight=False, soft_wrap=True)
    for text in note.left:
        console.print(f"not in it: {text}", highlight=False, soft_wrap=True)


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `backup --to` wrote.")],
    erased: Annotated[
        Path | None,
        typer.Option(
            "--erased",
            help="A later .nightloom/erased.jsonl: what was erased since the backup.",
            show_default="the list of this clone, if it has one",
        ),
    ] = None,
    root: Root = HERE,
    as_json: Json = False,
) -> None:
    """Put a backup into a clone without stores; each file is checked against its hash first.

    Rows that were erased since the backup are erased again before anything else runs.
    """
    with checkout_at(root, as_json) as checkout:
        from flows.backup import restore as restore_backup

        note, rows = restore_backup(checkout, source, erased)
    if as_json:
        print_json({"backup": note, "erased_again": rows})
        return
    console = make_console()
    console.print(f"restored the backup of {note.time:%Y-%m-%d %H:%M} UTC", highlight=False)
    if rows:
        console.print(f"{rows} rows that were erased since are erased again")
    for text in note.left:
        console.print(f"not in it: {text}", highlight=False, soft_wrap=True)


def upgrade(root: Root = HERE, as_json: Json = False) -> None:
    """Bring the stores' schemas up to the MLflow and Prefect that are installed; copies stay."""
    with checkout_at(root, as_json) as checkout:
        from flows.upgrade import upgrade_stores

        found = upgrade_stores(checkout)
    if as_json:
        print_json(found)
        return
    console = make_console()
    for one in found:
        if one.copy is None:
            console.print(f"{one.store}: up to date", highlight=False)
        else:
            told = f"{one.store}: {one.before or 'none'} -> {one.after}; before: {one.copy}"
            console.print(told, highlight=False, soft_wrap=True)
