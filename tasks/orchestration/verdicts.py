"""What the ledger says of a version, and whether the version still is what was judged."""

from pathlib import Path

from tasks.orchestration.ledger import Ledger, Link
from tasks.orchestration.versions import BUNDLE_TAG, VERDICT_TAG, Version, check_manifest
from tasks.stage.errors import GateError
from tasks.stage.outputs import RESTORE, verified


def verdict_on(ledger: Ledger, version: Version) -> Link | None:
    """The entry of the newest verdict on a version, None where it was never judged."""
    about = [
        link
        for link in ledger.links(version.model)
        if link.entry.version == version.number and link.entry.kind in ("promoted", "refused")
    ]
    return about[-1] if about else None


def check_verdict(ledger: Ledger, version: Version, *, despite_refusal: bool) -> None:
    """Nothing, where the rules promoted a version, or somebody insists.

    Raises:
        GateError: it was refused, not judged, or not made by Nightloom; or its tags, which anybody
            can edit in MLflow, say otherwise than the ledger's verdict.
    """
    if not version.key:
        raise not_ours(version)
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
    """The folder of a version's bundle, every byte as it was registered and judged.

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


def not_ours(version: Version) -> GateError:
    """What is said of a version that carries no promotion key."""
    return GateError(
        f"{version.name} was not made by Nightloom: it carries no promotion key, so nothing ties "
        "it to a bundle that was scored",
        "name a version that a night registered; `nightloom status` shows them",
    )


def _check_tags(version: Version, link: Link | None) -> None:
    """That a version's tags say what the ledger says of it."""
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
