"""`nightloom erase`: take rows out of everything that is kept, and prove it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import HERE, By, Json, Root, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from flows.erasing import Erasure
    from flows.erasure_proof import Proof
    from tasks.ingestion.erased_rows import ErasedRow


def erase(
    names: Annotated[list[str], typer.Argument(metavar="ID...", help="Of records or documents.")],
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="Why; the ledger keeps it.", show_default="none"),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Erase nothing: show what became of the ids.")
    ] = False,
    by: By = None,
    root: Root = HERE,
    as_json: Json = False,
) -> None:
    """Erase rows from every intake and from all that was made of them; the next night learns
    without them.

    Every row of an id goes, whichever source it came from; the answer says which ones these were.
    The ledger names each version that held one, and nothing goes back to it. This can't be undone.
    """
    with checkout_at(root, as_json) as checkout:
        from flows.erasing import erase as erase_rows
        from flows.erasing import known_list
        from flows.erasure_proof import prove as prove_erased
        from flows.intakes import all_workspaces
        from flows.promoter import deciding, make_promoter, operating_user

        if prove:
            promoter = make_promoter(checkout)
            known = known_list(promoter.ledger, all_workspaces(checkout)[0], promoter.downloads)
            proofs = [prove_erased(promoter.ledger, known, name) for name in names]
        else:
            with deciding(checkout) as promoter:
                found = erase_rows(
                    promoter, checkout, names, reason=reason or "", by=by or operating_user()
                )
    if prove:
        _tell_proofs(proofs, as_json)
    else:
        _tell_erasure(found, as_json)


def _tell_erasure(found: "Erasure", as_json: bool) -> None:
    """Print what went, what held it, and what is left to do."""
    versions = [{"model": x.model, "version": x.number} for x in found.versions]
    if as_json:
        rows = [row.model_dump(exclude={"salt"}) for row in found.rows]
        print_json(
            {
                "erasure": found.id,
                "rows": rows,
                "versions": versions,
                "files_removed": found.removed,
                "values_overwritten": found.overwritten,
                "served_deleted": found.served,
                "others": found.others,
                "left": found.left,
            }
        )
        return
    console = make_console()
    lines = [
        f"{row.kind[:-1]} {row.id} of source {row.source} is erased from {row.intake}, line "
        f"{row.line}"
        for row in found.rows
    ]
    lines += list(_told_twice(found.rows))
    lines.append(
        f"{found.removed} files removed, {found.overwritten} values overwritten, {found.served} "
        "served questions deleted"
    )
    if found.others:
        lines.append(
            f"these rows say some of the same, and stay: {', '.join(found.others)}; erase them too "
            "where that is meant"
        )
    lines += [f"{x.name} held it: nothing goes back to it" for x in found.versions]
    lines += list(found.left)
    lines.append("take it out of its source too; what that offers again is left out, and counted")
    lines.append("next: `nightloom run` trains without it; once that is promoted, `nightloom prune "
                 "--yes` deletes the versions that held it")  # fmt: skip
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _told_twice(rows: "Sequence[ErasedRow]") -> Iterator[str]:
    """Say which ids were of more than one row: all of them are erased."""
    for name in dict.fromkeys(row.id for row in rows):
        of = dict.fromkeys(f"{x.kind} of {x.source}" for x in rows if x.id == name)
        if len(of) > 1:
            yield f"{name} is the id of several rows, and all are erased: {', '.join(of)}"


def _tell_proofs(proofs: "list[Proof]", as_json: bool) -> None:
    """Print the chain of each id: intakes, versions, what replaced them."""
    if as_json:
        shown = [
            {
                "id": proof.id,
                "complete": proof.is_complete,
                "rows": [row.model_dump(exclude={"salt"}) for row in proof.rows],
                "versions": proof.versions,
            }
            for proof in proofs
        ]
        print_json({"proofs": shown})
        return
    console = make_console()
    for proof in proofs:
        for line in _lines(proof):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(proof: "Proof") -> list[str]:
    lines = [
        f"{proof.id}: erased from {row.intake}/{row.kind}.jsonl:{row.line} (source {row.source}) "
        f"on {row.when} by {row.by}: {row.reason}"
        for row in proof.rows
    ]
    for one in proof.versions:
        name = f"nightloom-{one.model} version {one.number}"
        text = f"  {name} held it (entry {one.entry} of the ledger)"
        if one.replaced is not None:
            text += f"; version {one.replaced_by} replaced it (entry {one.replaced})"
        if one.deleted is not None:
            text += f"; deleted (entry {one.deleted})"
        elif one.aliases:
            text += f"; still there, named {', '.join(one.aliases)}"
        else:
            text += "; still there: `nightloom prune --yes` deletes it"
        lines.append(text)
    if not proof.versions:
        lines.append("  no version held it")
    return lines
