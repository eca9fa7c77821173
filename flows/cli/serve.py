"""`nightloom serve`: serve what the aliases name, until Ctrl-C."""

from typing import Annotated

import typer

from flows import HOST
from flows.cli.options import HERE, Alias, ModelName, Root, checkout_at
from flows.console import make_console

_ADAPTER = [ModelName.adapter]


def serve(
    root: Root = HERE,
    model: Annotated[
        list[ModelName], typer.Option(help="The adapter or its student; can be repeated.")
    ] = _ADAPTER,
    alias: Alias = None,
    host: Annotated[
        str, typer.Option(help="Address; there are no accounts, so stay on loopback.")
    ] = HOST,
    log: Annotated[
        bool,
        typer.Option(
            "--log/--no-log",
            help="Keep questions and answers as MLflow traces, personal data masked.",
        ),
    ] = False,
    port: Annotated[int, typer.Option(help="Port; 0 is any that is free.")] = 8000,
) -> None:
    """Serve the champion as OpenAI's chat API does; Ctrl-C stops it."""
    with checkout_at(root) as checkout:
        from flows.model_server import ServeOptions, serve_until_interrupted

        options = ServeOptions([item.value for item in model], alias, host, port, log)
        serve_until_interrupted(checkout, options, make_console())
