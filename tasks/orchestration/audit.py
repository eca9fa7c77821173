"""An audit of the ledger: its chain, and what the registry has to say against it."""

from dataclasses import replace

from tasks.orchestration.execution import pending
from tasks.orchestration.ledger import HEAD_TAG, Audit, Ledger
from tasks.orchestration.moves import DECIDED
from tasks.orchestration.versions import MODELS, VERDICT_TAG, Model


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
    judged = {entry.version for entry in entries if entry.kind in ("promoted", "refused")}
    faults = [
        f"{version.name} is tagged {version.tags[VERDICT_TAG]}, and no entry tells of a verdict"
        for version in registry.versions(model)
        if version.tags.get(VERDICT_TAG) and version.number not in judged
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
