"""`nightloom prune`: delete the versions that retention's rule lets go."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import HERE, By, Either, Json, Root, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from tasks.registry.retention import RetentionDecision


def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; else only say what would go.")
    ] = False,
    by: By = None,
    root: Root = HERE,
    model: Either = None,
    as_json: Json = False,
) -> None:
    """Delete old versions and their artifacts by params/release.yaml's rule; first only say which.

    What an alias names, what a rollback may need and what Nightloom did not make always stays.
    What versions answered after a row that they held was erased goes too.
    """
    with checkout_at(root, as_json) as checkout:
        from flows.environment import find_stores
        from flows.erased_stores import forget_answers, wipe_deleted
        from flows.promoter import deciding, delete_old, make_promoter, review_all

        name, stores = None if model is None else model.value, find_stores(checkout)
        if yes:
            with deciding(checkout) as promoter:
                decisions = delete_old(promoter, name, by)
                answers = forget_answers(stores, promoter.ledger)
            if answers is not None:
                wipe_deleted(checkout, stores)
        else:
            decisions = review_all(make_promoter(checkout), name)
    _print_decisions(decisions, yes, as_json)


def _print_decisions(decisions: "list[RetentionDecision]", done: bool, as_json: bool) -> None:
    """Show which versions go and which stay."""
    rows = [(one.version.model, one.version.number, one.goes, one.why) for one in decisions]
    if as_json:
        found = [dict(zip(("model", "version", "goes", "why"), row, strict=True)) for row in rows]
        print_json({"deleted": done, "versions": found})
        return
    console = make_console()
    gone = "deleted" if done else "would go"
    for name, number, goes, why in rows:
        state = gone if goes else "stays"
        console.print(f"{name} {number}: {state}: {why}", highlight=False)
    if not done and any(one.goes for one in decisions):
        console.print("nothing was deleted; say --yes to do it")
