"""The `nightloom` command. Thin: Prefect, MLflow and DVC keep their own."""

import json
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import (
    EXIT_FAILED,
    EXIT_REFUSED,
    HERE,
    Alias,
    Json,
    ModelName,
    Preset,
    Root,
    Set,
    Which,
    errors_told,
)
from flows.cli.promote import app as promotion
from flows.console import make_console, print_summary, print_sweep
from flows.credentials import secret_file
from flows.environment import open_checkout, shell_lines
from flows.export_command import app as exporting
from flows.run_state import failed_night_report, night_report
from flows.servers import HOST, Services, log_file, running_services
from flows.shutdown import interrupt_on_signals, stop_services
from flows.workspace import choose_workspace, find_checkout
from tasks.stage.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrains a language-model adapter every night and promotes it only when the evidence "
    "says so.",
)
app.add_typer(exporting)
app.add_typer(promotion)


_COMPARABLE = "A night, an MLflow run, a version (3, nightloom-student/3), an alias or a folder."


@app.command()
def run(root: Root = HERE, preset: Preset = None, set_: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """Run one night: new data in, what changed rebuilt, the release judged."""
    from flows.cli.run import run_night

    with errors_told(as_json, failed_night_report(datetime.now(UTC))):
        night = run_night(root, preset, set_, as_json=as_json)
        checkout = open_checkout(root)
        workspace = choose_workspace(checkout, preset, set_)
    if as_json:
        print(night_report(night))
    evaluation = workspace.path / workspace.checkout_paths().evaluation_report
    print_summary(make_console(to_stderr=as_json), night, evaluation, Services.read(checkout))
    codes = {"failed": EXIT_FAILED, "refused": EXIT_REFUSED}
    raise SystemExit(codes.get(str(night.verdict), 0))


@app.command()
def sweep(root: Root = HERE, preset: Preset = None, set_: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """Search hyperparameters as params/sweep.yaml says; an interrupted sweep goes on."""
    from flows.cli.run import run_sweep

    with errors_told(as_json):
        found = run_sweep(root, preset, set_)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        print_sweep(make_console(to_stderr=False), found, preset, set_)


@app.command()
def up(
    root: Root = HERE,
    prefect_port: Annotated[int, typer.Option(help="Prefect's port.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's port.")] = 5000,
    cron: Annotated[str | None, typer.Option(help="Instead of prefect.yaml's schedule.")] = None,
    timezone: Annotated[str, typer.Option(help="Of --cron.")] = "Etc/UTC",
    preset: Preset = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Start Prefect, MLflow and a worker, deploy the schedule; Ctrl-C stops them all.

    So do `nightloom down`, SIGTERM and a closed terminal; under `nohup` it outlives the terminal.
    """
    with errors_told(as_json=False):
        checkout = open_checkout(root)
        choose_workspace(checkout, preset, set_)
        parameters = json.dumps({"preset": preset, "overrides": set_})
        deployment = ["--params", parameters]
        if cron is not None:
            deployment += ["--cron", cron, "--timezone", timezone]
        interrupt_on_signals(hurry=False)
        console = make_console(to_stderr=False)
        try:
            with running_services(checkout, prefect_port, mlflow_port, deployment) as running:
                console.print(f"Prefect: {running.services.prefect}")
                console.print(f"         its page asks for the line in {secret_file(checkout)}")
                console.print(f"MLflow:  {running.services.mlflow}")
                console.print("the nightly deployment is scheduled; Ctrl-C stops everything")
                try:
                    while (fallen := running.fallen()) is None:
                        time.sleep(1)
                finally:
                    _tell(console, "stopping, a night that runs first")
                raise ConfigError(
                    f"{fallen} ended by itself", f"read {log_file(checkout, fallen)}, its log"
                )
        except KeyboardInterrupt:
            _tell(console, "stopped")


def _tell(console: Console, text: str) -> None:
    """Tell a terminal that may have been closed."""
    with suppress(OSError):
        console.print(text)


@app.command()
def down(root: Root = HERE) -> None:
    """Stop what `nightloom up` started, and say "stopped" when nothing of it lives.

    A night in the worker is ended, writes down that it was, and the next one goes on from there. A
    night or sweep of another shell is waited for before anything stops.
    """
    console = make_console(to_stderr=False)
    with errors_told(as_json=False):
        stopped = stop_services(
            open_checkout(root), lambda text: console.print(text, markup=False, soft_wrap=True)
        )
    console.print("stopped" if stopped else "nothing was up")


@app.command()
def env(root: Root = HERE) -> None:
    """Print what a shell needs for plain prefect, dvc and mlflow: eval "$(nightloom env)"."""
    with errors_told(as_json=False):
        lines = shell_lines(find_checkout(root))
    print("\n".join(lines))


@app.command()
def status(root: Root = HERE, as_json: Json = False) -> None:
    """Show the last nights, the night that runs now, the aliases and the servers."""
    from flows.cli.status import print_status, read_status

    with errors_told(as_json):
        checkout = open_checkout(root)
        standing = read_status(checkout)
    if as_json:
        print(standing.model_dump_json(indent=1, by_alias=True))
    else:
        print_status(make_console(to_stderr=False), standing)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    root: Root = HERE,
    model: Which = ModelName.adapter,
    alias: Alias = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Search only passages of this source, license, title or document."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the reigning version; show its answer and the passages it used."""
    from flows.cli.ask import ask_model, print_answer

    with errors_told(as_json):
        checkout = open_checkout(root)
        answer = ask_model(checkout, question, model.value, alias, where or [])
    if as_json:
        print(answer.model_dump_json(indent=1))
        return
    print_answer(make_console(to_stderr=False), answer)


@app.command()
def serve(
    root: Root = HERE,
    model: Annotated[list[ModelName], typer.Option(help="Can be repeated.")] = [ModelName.adapter],  # noqa: B006
    alias: Alias = None,
    host: Annotated[str, typer.Option(help="There are no accounts: stay on loopback.")] = HOST,
    port: Annotated[int, typer.Option(help="0 is any that is free.")] = 8000,
) -> None:
    """Serve the reigning version as OpenAI's chat API does; Ctrl-C stops it."""
    from flows.cli.serve import ServeOptions, serve_until_interrupted

    with errors_told(as_json=False):
        options = ServeOptions([item.value for item in model], alias, host, port)
        serve_until_interrupted(open_checkout(root), options, make_console(to_stderr=False))


@app.command()
def compare(
    left: Annotated[str, typer.Argument(metavar="A", help=_COMPARABLE)],
    right: Annotated[str, typer.Argument(metavar="B", help="What is held against A.")],
    root: Root = HERE,
    model: Which = ModelName.adapter,
    system: Annotated[
        str | None, typer.Option(help="base, adapter, student, ...; else the model's own.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Else the one that A decided on.")] = None,
    mode: Annotated[str | None, typer.Option(help="Else the one that A decided on.")] = None,
    as_json: Json = False,
) -> None:
    """Hold two evaluations against each other: by mode, by slice, and what changed most."""
    from flows.cli.compare import Choice, compare_by_name, print_comparison

    with errors_told(as_json):
        checkout = open_checkout(root)
        choice = Choice(model.value, system, metric, mode)
        found = compare_by_name(checkout, left, right, choice)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False, indent=1))
    else:
        print_comparison(make_console(to_stderr=False), found)


@app.command()
def doctor(root: Root = HERE, as_json: Json = False) -> None:
    """Check versions, stores, disk and device, and say how to mend each."""
    from flows.cli.doctor import print_checks, run_checks

    with errors_told(as_json):
        checkout = open_checkout(root)
        findings = run_checks(checkout)
    if as_json:
        print(json.dumps([finding.as_row() for finding in findings], ensure_ascii=False, indent=1))
    else:
        print_checks(make_console(to_stderr=False), findings)
    raise SystemExit(0 if all(finding.passed for finding in findings) else EXIT_FAILED)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
