"""`nightloom ledger`: show the decisions, and check that their chain is whole."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from flows import EXIT_FAILED
from flows.cli.options import HERE, Either, Json, Root, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from tasks.registry.ledger import Link

app = typer.Typer(add_completion=False, invoke_without_command=True)


@app.callback()
def show(
    context: typer.Context,
    root: Root = HERE,
    model: Either = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The last so many entries.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the last decisions, oldest first; `nightloom ledger verify` checks the chain."""
    if context.invoked_subcommand is not None:
        return
    with checkout_at(root, as_json) as checkout:
        from flows.promoter import make_promoter

        ledger = make_promoter(checkout).ledger
        links = ledger.links(None if model is None else model.value)[-limit:]
    if as_json:
        rows = [link.entry.model_dump() | {"sha256": link.sha256} for link in links]
        print_json(rows)
    else:
        _print_entries(make_console(), links)


@app.command()
def verify(
    root: Root = HERE,
    contains: Annotated[
        str | None,
        typer.Option(
            "--contains",
            help="A hash noted down earlier: is it still in the chain?",
            show_default="none",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no entry was changed, deleted or moved; exit 1 with the entry named.

    Versions' verdicts and the aliases must be those that the entries tell.

    The one thing it can't see is somebody who rewrites every entry from one on, and the last hash
    that the registered models carry. Note the last hash down elsewhere, and --contains finds that.
    """
    with checkout_at(root, as_json) as checkout:
        from flows.promoter import make_promoter
        from tasks.registry.audit import audit

        ledger = make_promoter(checkout).ledger
        found = audit(ledger)
        faults = list(found.faults)
        if contains and not any(link.sha256.startswith(contains) for link in ledger.links()):
            faults.append(f"no entry has the hash {contains}: the chain was written anew since")
    if as_json:
        print_json({"entries": found.entries, "head": found.head, "faults": faults})
    else:
        console = make_console()
        for fault in faults:
            console.print(fault, markup=False, highlight=False, soft_wrap=True)
        state = f"{len(faults)} faults" if faults else "the chain is whole"
        console.print(f"{found.entries} entries, {state}", highlight=False)
        console.print(f"last hash {found.head or 'none'}", highlight=False, soft_wrap=True)
    raise SystemExit(EXIT_FAILED if faults else 0)


def _print_entries(console: Console, links: "Sequence[Link]") -> None:
    """Print entries for people."""
    if not links:
        console.print("nothing was decided yet")
        return
    for link in links:
        entry = link.entry
        about = entry.model or "data"
        version = about if entry.version is None else f"{about} {entry.version}"
        what = entry.kind.replace("_", " ")
        if entry.awaits is not None:
            what += f", asks for {entry.awaits}"
        when = entry.time.removesuffix("+00:00").replace("T", " ")
        what += f" by {escape(entry.by)}"
        head = [f"{entry.number:>3}", when, f"[bold]{escape(version)}[/bold]", what]
        before, after = (side.get("production", "-") for side in (entry.before, entry.after))
        if before != after:
            head.append(f"production {before} -> {after}")
        if "despite" in entry.evidence:
            head.append(f"despite {entry.evidence['despite']}")
        console.print("  ".join(head))
        for reason in entry.reasons:
            console.print(Padding(escape(reason), (0, 0, 0, 5), expand=False))
