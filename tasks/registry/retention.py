"""Old versions and their artifacts, deleted by rule; never one that may still be needed."""

from dataclasses import dataclass

from tasks.records.schema import ServedModel
from tasks.registry.aliases import AliasPlan, own_aliases
from tasks.registry.approval import open_requests
from tasks.registry.erased import erased_versions
from tasks.registry.ledger import Entry, Ledger
from tasks.registry.params import VersionRetentionParams
from tasks.registry.promote import recent_champions, were_in_production
from tasks.registry.transactions import carry_out, new_intent
from tasks.registry.versions import Version

_DAY_MS = 86_400_000


@dataclass(frozen=True)
class RetentionDecision:
    """Whether a version goes, and why it stays or goes."""

    version: Version
    goes: bool
    why: str


def review(
    ledger: Ledger,
    model: ServedModel,
    params: VersionRetentionParams,
    *,
    anchor_nights: int,
    now_ms: int,
) -> list[RetentionDecision]:
    """Decide about every version of a model, oldest first; nothing is written.

    What was champion in the last `anchor_nights` may be the anchor of a coming night. What held
    rows that were erased goes as soon as nobody is served from it.
    """
    versions = ledger.registry.versions(model)
    aliases = ledger.registry.aliases(model)
    names = {number: alias for alias, number in aliases.items()}
    targets = were_in_production(ledger, model)[: params.rollback_targets]
    unnamed = [item.number for item in versions if item.number not in names]
    newest = set(unnamed[len(unnamed) - params.archived :] if params.archived else [])
    anchors = recent_champions(ledger, model, anchor_nights)
    awaiting = {entry.version for entry in open_requests(ledger, model)}
    erased = erased_versions(ledger, model)
    decisions = []
    for version in versions:
        named = {alias for alias, number in aliases.items() if number == version.number}
        if version.number in erased and named <= {"previous"}:
            gone = f"it held rows that were erased on {erased[version.number].time[:10]}"
            decisions.append(RetentionDecision(version, True, gone))
            continue
        number, days = version.number, (now_ms - version.created_ms) / _DAY_MS
        stays = {
            f"the alias {names.get(number)} names it": number in names,
            "something else than Nightloom made it": not version.key,
            "a rollback may need it": number in targets,
            f"it was champion in the last {anchor_nights} nights, and may be the anchor": (
                number in anchors
            ),
            "a person is asked about it": number in awaiting,
            f"one of the newest {params.archived} archived": number in newest,
            f"younger than {params.days} days": days < params.days,
        }
        why = next((reason for reason, holds in stays.items() if holds), "")
        gone = f"archived, {days:.0f} days old, beyond the newest {params.archived}"
        decisions.append(RetentionDecision(version, not why, why or gone))
    return decisions


def prune(ledger: Ledger, decision: RetentionDecision, *, by: str) -> Entry:
    """Delete a version with its artifacts, and return the entry. Call it while holding the lock.

    An alias that named it, which only `previous` can, goes with it.
    """
    version = decision.version
    now = own_aliases(ledger.registry.aliases(version.model))
    left = {alias: number for alias, number in now.items() if number != version.number}
    plan = None if left == now else AliasPlan(left, awaits=None)
    return carry_out(
        ledger, new_intent(ledger, version, "pruned", by=by, reason=decision.why, plan=plan)
    )
