"""The commands that decide about versions: promote, rollback, ledger, prune."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import EXIT_FAILED, HERE, Json, ModelName, Root, Which, errors_told
from flows.console import make_console

if TYPE_CHECKING:
    from tasks.registry.retention import RetentionDecision

app = typer.Typer(no_args_is_help=True, add_completion=False)
ledger_app = typer.Typer(add_completion=False, invoke_without_command=True)
app.add_typer(
    ledger_app,
    name="ledger",
    help="Show who decided what about which version, when, why and on which evidence.",
)

Reason = Annotated[str, typer.Option("--reason", help="Why; the ledger keeps it.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; else the operating user.")]
_EITHER = "One of the two models; both by default."


@app.command()
def promote(
    reason: Reason,
    version: Annotated[
        int | None, typer.Argument(help="Its number; else the one in staging.", show_default=False)
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
    from flows.promoter import deciding, operating_user, read_registry_stage

    with errors_told(as_json):
        from tasks.registry.promote import promote as promote_version

        stage = read_registry_stage(to)
        with deciding(root) as promoter:
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
    what = f"is in {stage}" if entry else f"was in {stage} already; nothing was decided"
    _tell_move(model.value, number, what, aliases, as_json, None if entry is None else entry.number)


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[
        int | None, typer.Option("--to", help="A version that was in production; else the last.")
    ] = None,
    by: By = None,
    root: Root = HERE,
    model: Which = ModelName.adapter,
    as_json: Json = False,
) -> None:
    """Let `production` name a version that it named before, once that answers as it did."""
    from flows.environment import open_checkout
    from flows.promoter import deciding, make_promoter, operating_user, rehearsal

    with errors_told(as_json):
        from tasks.registry.promote import roll_back

        waiting = make_promoter(open_checkout(root))
        leaving = waiting.ledger.registry.aliases(model.value).get("production")
        with deciding(root) as promoter:
            entry = roll_back(
                promoter.ledger,
                model.value,
                to,
                by=by or operating_user(),
                reason=reason,
                leaving=leaving,
                downloads=promoter.downloads,
                rehearse=rehearsal(open_checkout(root), model.value, promoter.params),
            )
            aliases = promoter.ledger.registry.aliases(model.value)
    number = aliases["production"]
    _tell_move(model.value, number, "is in production again", aliases, as_json, entry.number)


@app.command()
def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; else only say what would go.")
    ] = False,
    by: By = None,
    root: Root = HERE,
    model: Annotated[ModelName | None, typer.Option("--model", help=_EITHER)] = None,
    as_json: Json = False,
) -> None:
    """Delete old versions and their artifacts by params/release.yaml's rule; first only say which.

    What an alias names, what a rollback may need and what Nightloom did not make always stays.
    """
    from flows.environment import open_checkout
    from flows.promoter import deciding, delete_old, make_promoter, review_all

    with errors_told(as_json):
        name = None if model is None else model.value
        if yes:
            with deciding(root) as promoter:
                fates = delete_old(promoter, name, by)
        else:
            fates = review_all(make_promoter(open_checkout(root)), name)
    _tell_fates(fates, yes, as_json)


@ledger_app.callback()
def show(
    context: typer.Context,
    root: Root = HERE,
    model: Annotated[ModelName | None, typer.Option("--model", help=_EITHER)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The last so many entries.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the last decisions, oldest first; `nightloom ledger verify` checks the chain."""
    if context.invoked_subcommand is not None:
        return
    from flows.environment import open_checkout
    from flows.promoter import make_promoter, print_ledger

    with errors_told(as_json):
        ledger = make_promoter(open_checkout(root)).ledger
        links = ledger.links(None if model is None else model.value)[-limit:]
    if as_json:
        rows = [link.entry.model_dump() | {"sha256": link.sha256} for link in links]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        print_ledger(make_console(to_stderr=False), links)


@ledger_app.command()
def verify(
    root: Root = HERE,
    contains: Annotated[
        str | None,
        typer.Option("--contains", help="A hash noted down earlier: is it still in the chain?"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no entry was changed, deleted or moved; exit 1 with the entry named.

    Versions' verdicts and the aliases must be those that the entries tell.

    The one thing it can't see is somebody who rewrites every entry from one on, and the last hash
    that the registered models carry. Note the last hash down elsewhere, and --contains finds that.
    """
    from flows.environment import open_checkout
    from flows.promoter import make_promoter

    with errors_told(as_json):
        from tasks.registry.audit import audit

        ledger = make_promoter(open_checkout(root)).ledger
        found = audit(ledger)
        faults = list(found.faults)
        if contains and not any(link.sha256.startswith(contains) for link in ledger.links()):
            faults.append(f"no entry has the hash {contains}: the chain was written anew since")
    if as_json:
        content = {"entries": found.entries, "head": found.head, "faults": faults}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        console = make_console(to_stderr=False)
        for fault in faults:
            console.print(fault, markup=False, highlight=False, soft_wrap=True)
        state = f"{len(faults)} faults" if faults else "the chain is whole"
        console.print(f"{found.entries} entries, {state}", highlight=False)
        console.print(f"last hash {found.head or 'none'}", highlight=False, soft_wrap=True)
    raise SystemExit(EXIT_FAILED if faults else 0)


def _tell_move(
    model: str, number: int, what: str, aliases: dict[str, int], as_json: bool, entry: int | None
) -> None:
    """Show which version moved, and where the aliases are now."""
    if as_json:
        found = {"model": model, "version": number, "aliases": aliases, "entry": entry}
        print(json.dumps(found))
        return
    console = make_console(to_stderr=False)
    console.print(f"{model} version {number} {what}", highlight=False)
    shown = ", ".join(f"{name} -> {value}" for name, value in aliases.items())
    console.print(f"  {shown}", highlight=False)


def _tell_fates(fates: "list[RetentionDecision]", done: bool, as_json: bool) -> None:
    """Show which versions go and which stay."""
    rows = [(fate.version.model, fate.version.number, fate.goes, fate.why) for fate in fates]
    if as_json:
        found = [dict(zip(("model", "version", "goes", "why"), row, strict=True)) for row in rows]
        print(json.dumps({"deleted": done, "versions": found}, ensure_ascii=False, indent=1))
        return
    console = make_console(to_stderr=False)
    gone = "deleted" if done else "would go"
    for name, number, goes, why in rows:
        state = gone if goes else "stays"
        console.print(f"{name} {number}: {state}: {why}", highlight=False)
    if not done and any(fate.goes for fate in fates):
        console.print("nothing was deleted; say --yes to do it")
