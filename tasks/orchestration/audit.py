"""An audit of the ledger: its chain, and what the registry has to say against it."""

from dataclasses import replace

from tasks.orchestration.execution import pending
from tasks.orchestration.ledger import HEAD_TAG, Audit, Entry, Ledger
from tasks.orchestration.moves import DECIDED
from tasks.orchestration.versions import (
    BUNDLE_TAG,
    KEY_TAG,
    MODELS,
    VERDICT_TAG,
    Model,
    Version,
)


def audit(ledger: Ledger) -> Audit:
    """What is wrong with a ledger, by itself and beside the registry.

    A decision that is being carried out, or was cut short, is no fault: it is finished first.
    """
    begun = {model: pending(ledger.registry, model) for model in MODELS}
    found = ledger.audit(pending={item.id for item in begun.values() if item is not None})
    quiet = [model for model, intent in begun.items() if intent is None]
    witnesses = [fault for model in quiet for fault in _contradictions(ledger, model)]
    return replace(found, faults=(*found.faults, *witnesses))


def _contradictions(ledger: Ledger, model: Model) -> list[str]:
    """What the registered model shows that the entries do not tell."""
    registry = ledger.registry
    entries = [link.entry for link in ledger.links(model)]
    judged = {entry.version: entry for entry in entries if entry.kind in ("promoted", "refused")}
    faults = [
        fault
        for version in registry.versions(model)
        for fault in _tags_against(version, judged.get(version.number))
    ]
    if entries and HEAD_TAG not in registry.model_tags(model):
        faults.append(f"the {model} carries no head, and {len(entries)} entries are about it")
    told = entries[-1].after if entries else {}
    now = registry.aliases(model)
    return faults + [
        f"the {model}'s alias {alias} names {now.get(alias, 'nothing')}, and by the last entry "
        f"{told.get(alias, 'nothing')}: it was moved outside of Nightloom, or the end was cut off"
        for alias in DECIDED
        if now.get(alias) != told.get(alias)
    ]


def _tags_against(version: Version, verdict: Entry | None) -> list[str]:
    """What a version's tags say otherwise than the newest verdict on it."""
    if verdict is None:
        tag = version.tags.get(VERDICT_TAG)
        return [f"{version.name} is tagged {tag}, and no entry tells of a verdict"] if tag else []
    told = {
        VERDICT_TAG: verdict.kind,
        KEY_TAG: verdict.key,
        BUNDLE_TAG: verdict.evidence.get(BUNDLE_TAG),
    }
    return [
        f"the tag {tag} of {version.name} says {version.tags.get(tag) or 'nothing'}, and by entry "
        f"{verdict.number} it is {expected}: something else than Nightloom changed it"
        for tag, expected in told.items()
        if version.tags.get(tag) != expected
    ]
