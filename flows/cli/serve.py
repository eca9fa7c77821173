"""`nightloom serve`: serve what the aliases name, until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import HERE, Alias, ModelName, Root, checkout_at
from flows.console import make_console
from tasks.services import HOST

_ADAPTER = [ModelName.adapter]


def serve(
    root: Root = HERE,
    model: Annotated[
        list[ModelName], typer.Option(help="The adapter or its student; can be repeated.")
    ] = _ADAPTER,
    alias: Alias = None,
    host: Annotated[
        str, typer.Option(help="Address; others than loopback's need TLS, or a proxy that has it.")
    ] = HOST,
    log: Annotated[
        bool,
        typer.Option(
            "--log/--no-log",
            help="Keep questions and answers as MLflow traces, personal data masked.",
        ),
    ] = False,
    port: Annotated[int, typer.Option(help="Port; 0 is any that is free.")] = 8000,
    no_key: Annotated[
        bool,
        typer.Option(
            "--no-key", help="Demand no key of clients; every user of this machine can ask then."
        ),
    ] = False,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="A PEM file: speak TLS.", show_default="none")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The certificate's key.", show_default="none")
    ] = None,
    tls_by_proxy: Annotated[
        bool, typer.Option("--tls-by-proxy", help="A proxy before this server speaks TLS.")
    ] = False,
) -> None:
    """Serve the champion as OpenAI's chat API does; Ctrl-C stops it.

    Clients send the key in .nightloom/private/serve-key.
    """
    with checkout_at(root) as checkout:
        from flows.model_server import ServeOptions, serve_until_interrupted
        from tasks.serving.access import Protection

        protection = Protection(not no_key, tls_certificate, tls_key, tls_by_proxy)
        options = ServeOptions([item.value for item in model], alias, host, port, protection, log)
        serve_until_interrupted(checkout, options, make_console())
