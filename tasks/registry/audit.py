"""Checks of the registry against the ledger: verdicts, tags, aliases, bundles and the chain."""

from dataclasses import replace
from pathlib import Path

from tasks.records.schema import ServedModel
from tasks.registry.aliases import DECIDED_ALIASES
from tasks.registry.client import Registry
from tasks.registry.ledger import HEAD_TAG, Audit, Entry, Ledger, Link
from tasks.registry.transactions import pending_intent
from tasks.registry.versions import (
    BUNDLE_TAG,
    KEY_TAG,
    MODELS,
    VERDICT_TAG,
    Version,
    check_manifest,
)
from tasks.stage.errors import DataError, GateError
from tasks.stage.outputs import RESTORE, verified


def audit(ledger: Ledger) -> Audit:
    """Check a ledger by itself and against the registry.

    A decision that is being carried out, or was cut short, is no fault: it is finished first.
    """
    begun = {model: pending_intent(ledger.registry, model) for model in MODELS}
    found = ledger.audit(pending={item.id for item in begun.values() if item is not None})
    quiet = [model for model, intent in begun.items() if intent is None]
    witnesses = [fault for model in quiet for fault in _contradictions(ledger, model)]
    return replace(found, faults=(*found.faults, *witnesses))


def _contradictions(ledger: Ledger, model: ServedModel) -> list[str]:
    """Return what the registered model shows that the entries do not tell."""
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
        for alias in DECIDED_ALIASES
        if now.get(alias) != told.get(alias)
    ]


def _tags_against(version: Version, verdict: Entry | None) -> list[str]:
    """Return the tags of a version that differ from the newest verdict on it."""
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


def verdict_on(ledger: Ledger, version: Version) -> Link | None:
    """Return the entry of the newest verdict on a version, None if it has no verdict."""
    about = [
        link
        for link in ledger.links(version.model)
        if link.entry.version == version.number and link.entry.kind in ("promoted", "refused")
    ]
    return about[-1] if about else None


def check_verdict(ledger: Ledger, version: Version, *, despite_refusal: bool) -> None:
    """Check that the rules promoted a version, or that somebody insists.

    Raises:
        GateError: it was refused, not judged, or not made by Nightloom; or its tags, which anybody
            can edit in MLflow, say otherwise than the ledger's verdict.
    """
    if not version.key:
        raise foreign_version_error(version)
    link = verdict_on(ledger, version)
    verdict = None if link is None else link.entry.kind
    if link is not None or not despite_refusal:
        _check_tags(version, link)
    if verdict == "promoted" or despite_refusal:
        return
    found = "was never judged" if verdict is None else f"was {verdict} by the rules"
    raise GateError(
        f"{version.name} {found}: a version moves on evidence, and its reasons are in its tags",
        "name one that was promoted; or say --despite-refusal, which the ledger keeps too",
    )


def checked_bundle(ledger: Ledger, version: Version, downloads: Path) -> Path:
    """Return the folder of a version's bundle, every byte as it was registered and judged.

    Raises:
        DataError: a file is missing, added or changed, or there is none.
    """
    bundle = ledger.registry.bundle(version.model, version.number, downloads)
    verified(bundle, what=f"the bundle of {version.name}", remedy=RESTORE)
    check_manifest(bundle, version.name, f"the tag {BUNDLE_TAG}", version.tags.get(BUNDLE_TAG))
    link = verdict_on(ledger, version)
    if link is not None:
        where = f"the ledger's entry {link.entry.number}"
        check_manifest(bundle, version.name, where, link.entry.evidence.get(BUNDLE_TAG))
    return bundle


def bundle_to_serve(registry: Registry, version: Version, downloads: Path) -> Path:
    """Return the folder of a version's bundle, which is what a night uploaded and registered.

    A version's tags and place can be edited in MLflow's pages. Its files are checked against what
    the night's own run says of them; whoever loads them checks each file against the manifest.

    Raises:
        DataError: no night uploaded them, or they are others.
    """
    upload = registry.upload(version)
    if upload is None:
        raise DataError(
            f"{version.name} was not made by Nightloom: no night's run says what its files in "
            f"{version.source} must be, so nobody can be answered by them",
            "let the alias name a version that a night registered; `nightloom status` shows them",
        )
    bundle = registry.bundle(version.model, version.number, downloads)
    check_manifest(bundle, version.name, f"the night's run {upload.run_id}", upload.manifest)
    return bundle


def foreign_version_error(version: Version) -> GateError:
    """Return the error for a version that Nightloom did not make."""
    return GateError(
        f"{version.name} was not made by Nightloom: it carries no promotion key, so nothing ties "
        "it to a bundle that was scored",
        "name a version that a night registered; `nightloom status` shows them",
    )


def _check_tags(version: Version, link: Link | None) -> None:
    """Check that a version's tags say what the ledger says of it."""
    said = {"verdict": version.tags.get(VERDICT_TAG) or None, "promotion key": version.key}
    known = {"verdict": None, "promotion key": version.key}
    if link is not None:
        known = {"verdict": link.entry.kind, "promotion key": link.entry.key}
    for name, expected in known.items():
        if said[name] != expected:
            raise GateError(
                f"the tags of {version.name} say {name} {said[name] or 'nothing'}, and the ledger "
                f"says {expected or 'nothing'}: something else than Nightloom changed one of them",
                "look at `nightloom ledger` and `nightloom ledger verify`, and set the tag right "
                "in MLflow",
            )
