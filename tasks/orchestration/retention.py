"""Old versions and their artifacts, deleted by rule; never one that anything may still need."""

from dataclasses import dataclass

from tasks.orchestration import moves
from tasks.orchestration.execution import carry_out
from tasks.orchestration.ledger import Entry, Ledger
from tasks.orchestration.promotion import decision, were_in_production
from tasks.orchestration.versions import Model, Version
from tasks.promotion.release_params import RetentionParams

_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Fate:
    """Whether a version goes, and why it stays or goes."""

    version: Version
    goes: bool
    why: str


def review(ledger: Ledger, model: Model, params: RetentionParams, *, now_ms: int) -> list[Fate]:
    """The fate of every version of a model, oldest first."""
    versions = ledger.registry.versions(model)
    names = {number: alias for alias, number in ledger.registry.aliases(model).items()}
    targets = were_in_production(ledger, model)[: params.rollback_targets]
    unnamed = [item.number for item in versions if item.number not in names]
    newest = set(unnamed[len(unnamed) - params.archived :] if params.archived else [])
    awaiting = {entry.version for entry in awaited(ledger, model)}
    fates = []
    for version in versions:
        number, days = version.number, (now_ms - version.created_ms) / _DAY_MS
        stays = {
            f"the alias {names.get(number)} names it": number in names,
            "something else than Nightloom made it": not version.key,
            "a rollback may need it": number in targets,
            "a person is asked about it": number in awaiting,
            f"one of the newest {params.archived} archived": number in newest,
            f"younger than {params.days} days": days < params.days,
        }
        why = next((reason for reason, holds in stays.items() if holds), "")
        gone = f"archived, {days:.0f} days old, beyond the newest {params.archived}"
        fates.append(Fate(version, not why, why or gone))
    return fates


def prune(ledger: Ledger, fate: Fate, *, by: str) -> Entry:
    """The entry of a version that is deleted with its artifacts. Call it while holding the turn."""
    version = fate.version
    plan = moves.Plan(moves.ours(ledger.registry.aliases(version.model)), awaits=None)
    intent = decision(ledger, version, "pruned", by=by, reason=fate.why, plan=plan)
    return carry_out(ledger, intent.model_copy(update={"discards": True}))


def awaited(ledger: Ledger, model: Model) -> list[Entry]:
    """The entries of a model by which a person is asked and has not answered yet."""
    latest: dict[int | None, Entry] = {}
    for link in ledger.links(model):
        if link.entry.kind != "found":
            latest[link.entry.version] = link.entry
    return [entry for entry in latest.values() if entry.awaits is not None]
