"""`nightloom models`: look at a base before a night relies on it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import EXIT_FAILED
from flows.cli.options import HERE, Json, Root, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from tasks.model_check.findings import Finding
    from tasks.stage.params import BaseSource

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def models() -> None:
    """Look at a base before a night relies on it."""


@app.command()
def check(
    source: Annotated[
        str | None,
        typer.Argument(
            help="embedded:NAME, hub:OWNER/NAME, tiny:NAME or a folder.",
            show_default="the base of params/models.yaml",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A hub model's commit.", show_default="none")
    ] = None,
    root: Root = HERE,
    as_json: Json = False,
) -> None:
    """Try a base as a night would, from its config and without its weights; exit 1 if refused.

    Params say what a night does with it, and how its chat template is rendered.
    """
    with checkout_at(root, as_json) as checkout:
        base = _named(checkout, source, revision)
        findings = look_at(checkout, base)
    passed = all(finding.fault is None for finding in findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        print_json({"source": base.source, "passed": passed, "findings": rows})
    else:
        _print_findings(make_console(), base.source, findings)
    raise SystemExit(0 if passed else EXIT_FAILED)


def _named(checkout: Path, source: str | None, revision: str | None) -> "BaseSource":
    """Return the base that is asked about, its template as params say.

    Raises:
        ConfigError: params are wrong, or there is no such kind of source.
    """
    from tasks.stage.params import ModelsParams, StageParams, read_yaml, validate_params

    class _Models(StageParams):
        models: ModelsParams

    path = checkout / "params" / "models.yaml"
    content = read_yaml(path)
    if source is not None:
        given = str(Path(source).resolve()) if Path(source).is_dir() else source
        content["base"] = {**content.get("base", {}), "source": given, "revision": revision}
    return validate_params(_Models, {"models": content}, [path]).models.base


def look_at(checkout: Path, base: "BaseSource") -> "list[Finding]":
    """Return what a child finds of a base.

    Raises:
        NightloomError: it ended without a finding.
    """
    from flows.workspace import Workspace
    from tasks.model_check.findings import Finding
    from tasks.orchestration.base_model import check_command
    from tasks.services.processes import (
        child_environment,
        printed_failure,
        run_child,
        stage_error,
    )

    store = (checkout / Workspace(checkout, checkout, ()).paths().model_store).resolve()
    store.mkdir(parents=True, exist_ok=True)
    environment = child_environment(online=base.source.startswith("hub:"))
    child = run_child(check_command(base, checkout, store), checkout, environment=environment)
    found = [Finding(**json.loads(line)) for line in child.lines if line.startswith('{"name": ')]
    if not found:
        raise stage_error(f"base model {base.source}", printed_failure(child))
    return found


def _print_findings(console: Console, source: str, findings: "Sequence[Finding]") -> None:
    table = Table(title=escape(source), box=None, title_justify="left", show_header=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.fault is None else "[red]bad[/]"
        said = finding.fault or finding.found
        table.add_row(mark, escape(finding.name), escape(said))
        if finding.remedy:
            table.add_row("", "", f"what to do: {escape(finding.remedy)}")
    console.print(table)
