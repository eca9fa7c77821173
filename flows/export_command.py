"""The command that writes a version for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import HERE, Json, ModelName, Root, Which, errors_told
from flows.console import make_console
from flows.environment import open_checkout
from tasks.export.formats import Format

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="A version's number, or an alias.")],
    to: Annotated[Path, typer.Option("--to", help="A folder that is not there yet, or empty.")],
    form: Annotated[
        Format, typer.Option("--format", help="Merged safetensors, or one GGUF file.")
    ] = Format.safetensors,
    root: Root = HERE,
    model: Which = ModelName.adapter,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also what int8, NF4 and GGUF forms cost (minutes).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a version for other programs: merged, in safetensors or for llama.cpp."""
    from flows.cli import export as exporting

    with errors_told(as_json):
        checkout = open_checkout(root)
        found = exporting.export_version(
            checkout, version, model.value, form.value, to, measure=measure
        )
    if as_json:
        print(exporting.exported_json(found))
    else:
        exporting.print_exported(make_console(to_stderr=False), found)
