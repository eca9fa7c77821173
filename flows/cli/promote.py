"""`nightloom promote` and `rollback`: a person moves a version."""

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
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from flows.review import OtherAnswer
    from tasks.registry.versions import RegistryStage

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
        from flows.promoter import bring_back, operating_user

        entry = bring_back(checkout, model.value, to, by=by or operating_user(), reason=reason)
    aliases = entry.after
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
