"""`nightloom prune`: delete the versions that retention's rule lets go, and what nights left."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import HERE, By, Either, Json, Root, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from flows.retention import Review
    from tasks.registry.retention import RetentionDecision


def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; else only say what would go.")
    ] = False,
    data: Annotated[
        bool,
        typer.Option(
            "--data", help="Not versions: data, reports, workspaces, logs by params/retention.yaml."
        ),
    ] = False,
    by: By = None,
    root: Root = HERE,
    model: Either = None,
    as_json: Json = False,
) -> None:
    """Delete old versions and their artifacts by params/release.yaml's rule; first only say which.

    What an alias names, what a rollback may need and what Nightloom did not make always stays.
    What versions answered after a row that they held was erased goes too. With --data goes what
    nights left behind and neither a version, a workspace, a branch nor one of the last nights
    needs. Nothing in DVC's remote goes: other clones may need it.
    """
    with checkout_at(root, as_json) as checkout:
        if data:
            from flows.retention import delete_leavings, review_leavings

            review = delete_leavings(checkout) if yes else review_leavings(checkout)
            only_here = None if yes else review.data.only_here(checkout)
            _print_review(review, only_here, done=yes, as_json=as_json)
            return
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


def _print_review(review: "Review", only_here: int | None, *, done: bool, as_json: bool) -> None:
    """Show what goes by kind, who needs the data that stay, and what the remote holds."""
    rows = [
        {"kind": one.kind, "why": one.why, "files": len(one.paths) + len(one.begun_anew),
         "megabytes": one.freed}
        for one in review.leavings
    ]  # fmt: skip
    if as_json:
        needed = dict(review.data.needed)
        print_json({"deleted": done, "leavings": rows, "needed": needed, "only_here": only_here})
        return
    console, gone = make_console(), "deleted" if done else "would go"
    for row in rows:
        told = f"{row['files']} {gone}, {row['megabytes']:.1f} MB" if row["files"] else "all stays"
        console.print(f"{row['kind']}: {told} ({row['why']})", highlight=False, soft_wrap=True)
    for who, count in review.data.needed.items():
        console.print(f"  needed by {who}: {count} objects of DVC's cache", highlight=False)
    if only_here:
        console.print(
            f"  {only_here} objects that would go are not in DVC's remote", style="yellow"
        )
    if not done and any(row["files"] for row in rows):
        console.print("nothing was deleted; say --yes to do it")


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
