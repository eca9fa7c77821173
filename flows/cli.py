"""The `nightloom` command. Thin: Prefect, MLflow and DVC keep their own."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.environment import find_stores, set_environment
from flows.export_command import app as exporting
from flows.nights import error_entry, failed_report, report
from flows.services import HOST, log_file, read_services, running_services, stop_services
from flows.summary import make_console, print_error, print_summary, print_sweep
from flows.workspace import choose_workspace, find_checkout
from tasks.stage.errors import ConfigError, GateError, NightloomError

EXIT_FAILED = 1
EXIT_REFUSED = 3

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrains a language-model adapter every night and promotes it only when the evidence "
    "says so.",
)
app.add_typer(exporting)


class ModelName(StrEnum):
    """The two models of a night."""

    adapter = "adapter"
    student = "student"


Root = Annotated[Path, typer.Option("--root", help="A folder of the project.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Preset = Annotated[str | None, typer.Option("--preset", help="A list in params/presets/.")]
Set = Annotated[list[str], typer.Option("--set", help="FILE.KEY=VALUE; can be repeated.")]
Alias = Annotated[
    str | None, typer.Option(help="Instead of production, else staging, else candidate.")
]
Which = Annotated[ModelName, typer.Option("--model", help="The adapter or its student.")]

_HERE = Path()
_ADAPTER = ModelName.adapter
_COMPARABLE = "A night, an MLflow run, a version (3, nightloom-student/3), an alias or a folder."


@contextmanager
def _errors_told(as_json: bool, empty: dict[str, Any] = {}) -> Iterator[None]:  # noqa: B006
    """Tell a failure that a person can mend, without a traceback, and exit.

    `empty` is the rest of the JSON object that the command would have printed.
    """
    try:
        yield
    except NightloomError as error:
        entry = error_entry(error)
        print_error(make_console(to_stderr=True), entry)
        if as_json:
            print(json.dumps(empty | {"error": entry.model_dump(by_alias=True)}))
        raise SystemExit(EXIT_REFUSED if isinstance(error, GateError) else EXIT_FAILED) from None


@app.command()
def run(root: Root = _HERE, preset: Preset = None, set_: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """Run one night: new data in, what changed rebuilt, the release judged."""
    from flows.running import run_night

    with _errors_told(as_json, failed_report(datetime.now(UTC))):
        night = run_night(root, preset, set_, as_json=as_json)
        checkout = find_checkout(root)
        workspace = choose_workspace(checkout, preset, set_)
    if as_json:
        print(report(night))
    evaluation = workspace.path / workspace.checkout_paths().evaluation_report
    print_summary(make_console(to_stderr=as_json), night, evaluation, read_services(checkout))
    codes = {"failed": EXIT_FAILED, "refused": EXIT_REFUSED}
    raise SystemExit(codes.get(str(night.verdict), 0))


@app.command()
def sweep(root: Root = _HERE, preset: Preset = None, set_: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """Search hyperparameters as params/sweep.yaml says; an interrupted sweep goes on."""
    from flows.running import run_sweep

    with _errors_told(as_json):
        found = run_sweep(root, preset, set_)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        print_sweep(make_console(to_stderr=False), found, preset, set_)


@app.command()
def up(
    root: Root = _HERE,
    prefect_port: Annotated[int, typer.Option(help="Prefect's port.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's port.")] = 5000,
    cron: Annotated[str | None, typer.Option(help="Instead of prefect.yaml's schedule.")] = None,
    timezone: Annotated[str, typer.Option(help="Of --cron.")] = "Etc/UTC",
    preset: Preset = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Start Prefect, MLflow and a worker, deploy the schedule; Ctrl-C stops them all."""
    with _errors_told(as_json=False):
        checkout = find_checkout(root)
        choose_workspace(checkout, preset, set_)
        set_environment(checkout)
        parameters = json.dumps({"preset": preset, "overrides": set_})
        deployment = ["--params", parameters]
        if cron is not None:
            deployment += ["--cron", cron, "--timezone", timezone]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        console = make_console(to_stderr=False)
        try:
            with running_services(checkout, prefect_port, mlflow_port, deployment) as running:
                console.print(f"Prefect: {running.services.prefect}")
                console.print(f"MLflow:  {running.services.mlflow}")
                console.print("the nightly deployment is scheduled; Ctrl-C stops everything")
                while (fallen := running.fallen()) is None:
                    time.sleep(1)
                raise ConfigError(
                    f"{fallen} ended by itself", f"read {log_file(checkout, fallen)}, its log"
                )
        except KeyboardInterrupt:
            console.print("stopped")


@app.command()
def down(root: Root = _HERE) -> None:
    """Stop what `nightloom up` started in another shell."""
    with _errors_told(as_json=False):
        stopped = stop_services(find_checkout(root))
    make_console(to_stderr=False).print("stopped" if stopped else "nothing was up")


@app.command()
def status(root: Root = _HERE, as_json: Json = False) -> None:
    """Show the last nights, the night that runs now, the aliases and the servers."""
    from flows.standing import print_standing, read_standing

    with _errors_told(as_json):
        checkout = find_checkout(root)
        set_environment(checkout)
        standing = read_standing(checkout)
    if as_json:
        print(standing.model_dump_json(indent=1, by_alias=True))
    else:
        print_standing(make_console(to_stderr=False), standing)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    root: Root = _HERE,
    model: Which = ModelName.adapter,
    alias: Alias = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Search only passages of this source, license, title or document."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the reigning version; show its answer and the passages it used."""
    from flows.asking import ask_model, print_answer

    with _errors_told(as_json):
        checkout = find_checkout(root)
        answer = ask_model(checkout, question, model.value, alias, where or [])
    if as_json:
        print(answer.model_dump_json(indent=1))
        return
    print_answer(make_console(to_stderr=False), answer)


@app.command()
def serve(
    root: Root = _HERE,
    model: Annotated[list[ModelName], typer.Option(help="Can be repeated.")] = [_ADAPTER],  # noqa: B006
    alias: Alias = None,
    host: Annotated[str, typer.Option(help="There are no accounts: stay on loopback.")] = HOST,
    port: Annotated[int, typer.Option(help="0 is any that is free.")] = 8000,
) -> None:
    """Serve the reigning version as OpenAI's chat API does; Ctrl-C stops it."""
    from flows.serving import Serve, serve_until_interrupted

    with _errors_told(as_json=False):
        options = Serve([item.value for item in model], alias, host, port)
        serve_until_interrupted(find_checkout(root), options, make_console(to_stderr=False))


@app.command()
def compare(
    left: Annotated[str, typer.Argument(metavar="A", help=_COMPARABLE)],
    right: Annotated[str, typer.Argument(metavar="B", help="What is held against A.")],
    root: Root = _HERE,
    model: Which = ModelName.adapter,
    system: Annotated[
        str | None, typer.Option(help="base, adapter, student, ...; else the model's own.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Else the one that A decided on.")] = None,
    mode: Annotated[str | None, typer.Option(help="Else the one that A decided on.")] = None,
    as_json: Json = False,
) -> None:
    """Hold two evaluations against each other: by mode, by slice, and what changed most."""
    from flows.comparing import Choice, compare_by_name, print_comparison

    with _errors_told(as_json):
        checkout = find_checkout(root)
        set_environment(checkout)
        choice = Choice(model.value, system, metric, mode)
        found = compare_by_name(checkout, left, right, choice)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False, indent=1))
    else:
        print_comparison(make_console(to_stderr=False), found)


@app.command()
def promote(
    root: Root = _HERE,
    model: Which = ModelName.adapter,
    version: Annotated[int | None, typer.Option(help="Instead of the one in staging.")] = None,
    as_json: Json = False,
) -> None:
    """Let `production` name the version in staging; `previous` names the one before."""
    from tasks.orchestration.promotion import promote as promote_version

    _move(root, as_json, lambda registry: promote_version(registry, model.value, version))


@app.command()
def rollback(root: Root = _HERE, model: Which = ModelName.adapter, as_json: Json = False) -> None:
    """Let `production` name the version it named before."""
    from tasks.orchestration.promotion import roll_back

    _move(root, as_json, lambda registry: roll_back(registry, model.value))


@app.command()
def doctor(root: Root = _HERE, as_json: Json = False) -> None:
    """Check versions, stores, disk and device, and say how to mend each."""
    from flows.checkup import examine, print_findings

    with _errors_told(as_json):
        checkout = find_checkout(root)
        set_environment(checkout)
        findings = examine(checkout)
    if as_json:
        print(json.dumps([finding.as_row() for finding in findings], ensure_ascii=False, indent=1))
    else:
        print_findings(make_console(to_stderr=False), findings)
    raise SystemExit(0 if all(finding.passed for finding in findings) else EXIT_FAILED)


def _move(root: Path, as_json: bool, move: Any) -> None:
    """Move the aliases of a model and show where they are now."""
    with _errors_told(as_json):
        from tasks.orchestration.registry import Registry

        checkout = find_checkout(root)
        registry = Registry(find_stores(checkout))
        moved = move(registry)
        aliases = registry.aliases(moved.model)
    if as_json:
        print(json.dumps({"model": moved.model, "version": moved.number, "aliases": aliases}))
        return
    shown = ", ".join(f"{name} -> {number}" for name, number in aliases.items())
    make_console(to_stderr=False).print(f"{moved.model} version {moved.number} is in production")
    make_console(to_stderr=False).print(f"  {shown}", highlight=False)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
