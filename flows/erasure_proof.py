"""The proof of an erasure: which intakes held a row, which versions, and what replaced them."""

from dataclasses import dataclass

from tasks.ingestion.erased_rows import ErasedRow, ErasedRows
from tasks.records.schema import ServedModel
from tasks.records.text import id_form
from tasks.registry.erased import ERASURE
from tasks.registry.ledger import Entry, Ledger
from tasks.stage.errors import ConfigError


@dataclass(frozen=True)
class ErasedVersion:
    """A version that held a row: the ledger's entry that says so, what is left of it, and what
    replaced it.

    `deleted` is the entry of its deletion, `replaced` the first later one by which another version
    that held none of the rows is served; None where there is none yet.
    """

    model: ServedModel
    number: int
    entry: int
    aliases: tuple[str, ...]
    deleted: int | None
    replaced: int | None
    replaced_by: int | None


@dataclass(frozen=True)
class Proof:
    """What is known of an id that was erased."""

    id: str
    rows: tuple[ErasedRow, ...]
    versions: tuple[ErasedVersion, ...]

    @property
    def is_complete(self) -> bool:
        """Whether no version is left that held it."""
        return all(version.deleted is not None for version in self.versions)


def prove(ledger: Ledger, known: ErasedRows, name: str) -> Proof:
    """Return what became of a row that was erased.

    Raises:
        ConfigError: nothing of that id was erased.
    """
    name = id_form(name)
    rows = tuple(row for row in known.rows if row.id == name)
    if not rows:
        raise ConfigError(
            f"no row with the id {name!r} was erased", "`nightloom ledger` shows what was"
        )
    erasures = {row.erasure for row in rows}
    entries = [link.entry for link in ledger.links()]
    about = {
        (entry.model, entry.version): entry
        for entry in reversed(entries)
        if entry.kind == "erased" and entry.evidence.get(ERASURE) in erasures
    }
    held = {
        model: {x.version for x in entries if x.kind == "erased" and x.model == model}
        for model, number in about
        if model is not None and number is not None
    }
    versions = [
        _version(ledger, entries, entry, model, number, held[model])
        for (model, number), entry in sorted(about.items(), key=lambda item: item[1].number)
        if model is not None and number is not None
    ]
    return Proof(name, rows, tuple(versions))


def _version(
    ledger: Ledger,
    entries: list[Entry],
    entry: Entry,
    model: ServedModel,
    number: int,
    held: set[int | None],
) -> ErasedVersion:
    own = [x for x in entries if x.model == model]
    deleted = next((x.number for x in own if x.kind == "pruned" and x.version == number), None)
    later = [x for x in own if x.number > entry.number]
    replaced = next(
        (x for x in later if (now := _served(x)) is not None and now not in held),
        None,
    )
    names = tuple(name for name, at in ledger.registry.aliases(model).items() if at == number)
    return ErasedVersion(
        model,
        number,
        entry.number,
        names,
        deleted,
        None if replaced is None else replaced.number,
        None if replaced is None else _served(replaced),
    )


def _served(entry: Entry) -> int | None:
    """Return the version that people were served from after an entry."""
    return entry.after.get("production", entry.after.get("staging"))
