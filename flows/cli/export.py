"""A registered version in a form that other programs load, by a child that reads it back."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flows.cli.options import HERE, Json, ModelName, Root, Which, checkout_at, print_json
from flows.console import make_console
from tasks.export.formats import Format
from tasks.records.schema import ServedModel
from tasks.registry.versions import model_name
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from tasks.registry.client import Registry

COST_TABLE = "quantization.md"


@dataclass(frozen=True)
class Exported:
    """What was written: where, and how its logits compare (`tasks.export.verification`)."""

    folder: Path
    format: str
    prompts: int
    to_form: float
    to_float: float
    agreeing: float
    version: int = 0
    model: ServedModel = "adapter"


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
    with checkout_at(root, as_json) as checkout:
        found = export_version(checkout, version, model.value, form.value, to, measure=measure)
    if as_json:
        print_json(_exported_json(found))
    else:
        print_exported(make_console(), found)


def export_version(
    checkout: Path, which: str, model: ServedModel, form: str, target: Path, *, measure: bool
) -> Exported:
    """Export a version, named by its number or by an alias, and return what was written.

    Raises:
        ConfigError: no such version, the folder is not empty, or the form can't hold the model.
        GateError: what was written reads back as another model.
    """
    from pydantic import TypeAdapter

    from flows.environment import find_stores
    from flows.workspace import STATE, WorkspacePaths
    from tasks.registry.audit import bundle_to_serve
    from tasks.registry.client import Registry
    from tasks.services.processes import printed_failure, run_child, stage_error
    from tasks.stage.params import read_yaml

    registry = Registry(find_stores(checkout))
    number = find_version(registry, model, which)
    version = registry.version(model, number)
    bundle = bundle_to_serve(registry, version, checkout / STATE / "downloads")
    paths = WorkspacePaths.model_validate(read_yaml(checkout / "params" / "paths.yaml"))
    command = [sys.executable, "-m", "tasks.export", "--bundle", str(bundle), "--model", model]
    command += ["--store", str(checkout / paths.model_store), "--format", form]
    command += ["--to", str(target.absolute()), "--name", f"{model_name(model)}-{number}"]
    if measure:
        command += ["--curated", str(checkout / paths.curated)]
        command += ["--evaluation_report", str(checkout / paths.evaluation_report)]

    def on_line(line: str) -> None:
        if line[:1] != "{":
            print(line, file=sys.stderr, flush=True)

    child = run_child(command, checkout, on_line)
    if child.code != 0:
        raise stage_error("export", printed_failure(child))
    said = next(line for line in reversed(child.lines) if line[:1] == "{")
    told = TypeAdapter(Exported).validate_json(said)
    return replace(told, version=number, model=model)


def find_version(registry: "Registry", model: ServedModel, which: str) -> int:
    """Return the number of the version that a number or an alias names.

    Raises:
        ConfigError: there is none.
    """
    numbers, aliases = registry.numbers(model), registry.aliases(model)
    number = int(which) if which.isdecimal() else aliases.get(which)
    if number is None or number not in numbers:
        shown = ", ".join([*map(str, numbers), *aliases]) or "none"
        raise ConfigError(
            f"{which!r} is no version of {model_name(model)}; found: {shown}",
            "name one of these, or run `nightloom run`, which registers one",
        )
    return number


def print_exported(console: Console, exported: Exported) -> None:
    """Show what was written, and what quantisation cost where that was measured."""
    name = f"{exported.model} version {exported.version}"
    console.print(f"{name} as {exported.format} in {exported.folder}", highlight=False)
    console.print(
        f"  read back over {exported.prompts} golden prompts: {exported.agreeing:.1%} of the "
        f"likeliest tokens are the model's, the largest difference of a logit is "
        f"{exported.to_float:.2g} of their spread",
        highlight=False,
        soft_wrap=True,
    )
    table = exported.folder / COST_TABLE
    if table.exists():
        text = "\n" + table.read_text(encoding="utf-8")
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _exported_json(exported: Exported) -> dict[str, Any]:
    """Return what `--json` prints, with the table of costs where it was measured."""
    found = asdict(exported)
    costs = exported.folder / "quantization.json"
    if costs.exists():
        found["quantization"] = json.loads(costs.read_text(encoding="utf-8"))
    return found
