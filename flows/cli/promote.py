"""`nightloom promote` and `rollback`: a person moves a version."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from flows.cli.options import (
    HERE,
    By,
    Json,
    ModelName,
    Reason,
    Root,
    Which,
    checkout_at,
    one_line,
    print_json,
)
from flows.console import make_console
from tasks.records.schema import ServedModel
from tasks.stage.errors import ConfigError, GateError

if TYPE_CHECKING:
    from flows.review import OtherAnswer
    from tasks.registry.params import ReleaseParams
    from tasks.registry.versions import RegistryStage

_REFUSED = 3

_SHOWN = 10
_SHOWN_CHARACTERS = 200

_REGISTRY_STAGES: "tuple[RegistryStage, ...]" = ("staging", "production")


def promote(
    reason: Reason,
    version: Annotated[
        int | None, typer.Argument(help="Its number.", show_default="the one in staging")
    ] = None,
    to: Annotated[str, typer.Option("--to", help="staging or production.")] = "production",
    by: By = None,
    despite_refusal: Annotated[
        bool,
        typer.Option("--despite-refusal", help="Though the rules refused it, or never saw it."),
    ] = False,
    root: Root = HERE,
    model: Which = ModelName.adapter,
    as_json: Json = False,
) -> None:
    """Let `production` name the version in staging; `previous` names the one before."""
    with checkout_at(root, as_json) as checkout:
        from flows.environment import find_stores
        from flows.promoter import deciding, operating_user
        from flows.review import other_answers
        from tasks.registry.promote import promote as promote_version

        stage = _read_registry_stage(to)
        with deciding(checkout) as promoter:
            entry = promote_version(
                promoter.ledger,
                model.value,
                version,
                stage,
                by=by or operating_user(),
                reason=reason,
                despite_refusal=despite_refusal,
                downloads=promoter.downloads,
            )
            aliases = promoter.ledger.registry.aliases(model.value)
        number = aliases[stage]
        changed = other_answers(find_stores(checkout), model.value, number, _SHOWN)
    what = f"is in {stage}" if entry else f"was in {stage} already; nothing was decided"
    _tell_move(model.value, number, what, aliases, as_json, None if entry is None else entry.number)
    if changed and not as_json:
        console = make_console()
        console.print("served questions that it answers otherwise, the most different first:")
        console.print(_changed_answers(changed))


def _changed_answers(changed: "list[OtherAnswer]") -> Table:
    """Return the served questions that are answered otherwise now, in 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("question", "answer served", "its answer"):
        table.add_column(heading, overflow="fold")
    for one in changed:
        texts = (one.question, one.served, one.answer)
        table.add_row(*(Text(one_line(text, _SHOWN_CHARACTERS)) for text in texts))
    return table


def rollback(
    reason: Reason,
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            help="A version that was in production.",
            show_default="the one that was there last",
        ),
    ] = None,
    by: By = None,
    root: Root = HERE,
    model: Which = ModelName.adapter,
    as_json: Json = False,
) -> None:
    """Let `production` name a version that it named before, once that answers as it did."""
    with checkout_at(root, as_json) as checkout:
        from flows.promoter import deciding, make_promoter, operating_user
        from tasks.registry.promote import roll_back

        waiting = make_promoter(checkout)
        leaving = waiting.ledger.registry.aliases(model.value).get("production")
        with deciding(checkout) as promoter:
            entry = roll_back(
                promoter.ledger,
                model.value,
                to,
                by=by or operating_user(),
                reason=reason,
                leaving=leaving,
                downloads=promoter.downloads,
                rehearse=rehearsal(checkout, model.value, promoter.params),
            )
            aliases = promoter.ledger.registry.aliases(model.value)
    number = aliases["production"]
    _tell_move(model.value, number, "is in production again", aliases, as_json, entry.number)


def _tell_move(
    model: str, number: int, what: str, aliases: dict[str, int], as_json: bool, entry: int | None
) -> None:
    """Show which version moved, and where the aliases are now."""
    if as_json:
        print_json({"model": model, "version": number, "aliases": aliases, "entry": entry})
        return
    console = make_console()
    console.print(f"{model} version {number} {what}", highlight=False)
    shown = ", ".join(f"{name} -> {value}" for name, value in aliases.items())
    console.print(f"  {shown}", highlight=False)


def _read_registry_stage(text: str) -> "RegistryStage":
    """Return the stage that somebody named.

    Raises:
        ConfigError: there is none of this name.
    """
    for stage in _REGISTRY_STAGES:
        if text == stage:
            return stage
    hint = f"; MLflow tells {text} from {text.lower()}" if text.lower() in _REGISTRY_STAGES else ""
    raise ConfigError(
        f"{text!r} is no stage to move to; expected staging or production, in lower case{hint}",
        "say --to production",
    )


def rehearsal(checkout: Path, model: ServedModel, params: "ReleaseParams") -> "partial[str]":
    """Return a call that asks a bundle its golden prompts, in a process of its own."""
    return partial(_rehearse, checkout, model, params)


def _rehearse(checkout: Path, model: ServedModel, params: "ReleaseParams", bundle: Path) -> str:
    """Return in a sentence how many golden prompts a bundle answers as it once did.

    Raises:
        ConfigError: it could not be asked.
        GateError: too many come out otherwise.
    """
    from flows.workspace import WorkspacePaths
    from tasks.services.processes import run_child
    from tasks.stage.params import read_yaml

    paths = WorkspacePaths.model_validate(read_yaml(checkout / "params" / "paths.yaml"))
    command = [sys.executable, "-m", "tasks.answering.rehearsal", "--bundle", str(bundle)]
    command += ["--model", model, "--store", str(checkout / paths.model_store)]
    command += ["--mismatch", str(params.golden_mismatch)]
    child = run_child(command, checkout)
    if child.code == 0:
        return next(line for line in reversed(child.lines) if "golden prompts" in line)
    told = child.last_lines
    if child.code == _REFUSED:
        raise GateError(told, "name another version with --to; this one no longer answers so")
    raise ConfigError(f"the old bundle can't be asked:\n{told}", "mend what these lines name")
