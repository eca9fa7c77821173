"""The `nightloom` command. Thin: Prefect, MLflow and DVC keep their own.

`--help` imports the file of every command, so each defers what is slow to import to its function.
"""

import typer

from flows.cli import (
    ask,
    backup,
    compare,
    doctor,
    erase,
    export,
    history,
    install,
    intakes,
    ledger,
    models,
    notify,
    promote,
    prune,
    reproduce,
    review,
    run,
    serve,
    status,
    sweep,
    up,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrains a language-model adapter every night and promotes it only when the evidence "
    "says so.",
)
# In the order of `--help`.
for _command in (
    run.run,
    run.release,
    sweep.sweep,
    up.up,
    up.down,
    up.env,
    install.install,
    status.status,
    notify.notify,
    history.history,
    ask.ask,
    serve.serve,
    review.review,
    compare.compare,
    doctor.doctor,
    export.export,
    promote.promote,
    promote.rollback,
    reproduce.reproduce,
    prune.prune,
    backup.backup,
    backup.restore,
    backup.upgrade,
    erase.erase,
):
    app.command()(_command)
app.add_typer(
    ledger.app,
    name="ledger",
    help="Show who decided what about which version, when, why and on which evidence.",
)
app.add_typer(
    intakes.app,
    name="intakes",
    help="List what nights took in; take an intake back that came in wrong.",
)


app.add_typer(
    models.app,
    name="models",
    help="Look at a base before a night relies on it.",
)


def main() -> None:
    """Run the command line."""
    app()
