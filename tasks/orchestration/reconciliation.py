"""What an earlier promoter, or something else, left: finished, mended, or said."""

import logging
from collections import defaultdict

from tasks.orchestration.execution import Intent, carry_out, finish, new_identity, pending
from tasks.orchestration.ledger import Entry, Kind, Ledger
from tasks.orchestration.moves import ALIASES, DECIDED, ours, stage_tag
from tasks.orchestration.versions import BUNDLE_TAG, KEY_TAG, STAGE_TAG, Model, Version, model_name
from tasks.stage.errors import GateError

_NOBODY = "not through nightloom"
_logger = logging.getLogger(__name__)


def reconcile(ledger: Ledger, model: Model) -> list[str]:
    """What was found of a model that an earlier release had not left so, now mended or recorded.

    Call it while holding the turn, before any decision.
    """
    notes = _finish_earlier(ledger, model)
    notes += _tell_foreign_moves(ledger, model)
    versions = ledger.registry.versions(model)
    notes += _tag_untagged(ledger, versions)
    if notes:
        versions = ledger.registry.versions(model)
    notes += _drop_twins(ledger, model, versions)
    notes += _tell_foreign_versions(ledger, versions)
    notes += _tell_capitals(ledger, model)
    aliases = ledger.registry.aliases(model)
    for version in ledger.registry.versions(model):
        stage = stage_tag(version.number, aliases)
        # A version that was made a moment ago and is no candidate yet keeps its `none`.
        newest = version.number > aliases.get("candidate", 0)
        if version.key and not newest and version.tags.get(STAGE_TAG) != stage:
            ledger.registry.tag(version, {STAGE_TAG: stage})
            found = version.tags.get(STAGE_TAG, "no stage")
            notes.append(f"{version.name} was tagged {found}; by its aliases it is {stage}")
    return notes


def reconcile_aloud(ledger: Ledger, model: Model) -> None:
    """The same for a command that a person runs, who is told each note."""
    for note in reconcile(ledger, model):
        _logger.warning("%s", note)


def _finish_earlier(ledger: Ledger, model: Model) -> list[str]:
    """What a kill cut short, finished."""
    intent = pending(ledger.registry, model)
    if intent is None:
        return []
    try:
        finish(ledger, intent)
    except GateError as error:
        return [error.message]
    what = f"{intent.kind}, {model_name(model)} version {intent.version}, by {intent.by}"
    return [f"an earlier promoter had been cut short; finished now: {what}"]


def _tag_untagged(ledger: Ledger, versions: list[Version]) -> list[str]:
    """Versions that a night made and did not come to tag."""
    notes = []
    for version in versions:
        upload = None if version.key else ledger.registry.upload_of(version)
        if upload is not None:
            tags = {KEY_TAG: upload.key, BUNDLE_TAG: upload.manifest, STAGE_TAG: "none"}
            ledger.registry.tag(version, tags)
            notes.append(f"{version.name} was without the tags that its night meant for it")
    return notes


def _drop_twins(ledger: Ledger, model: Model, versions: list[Version]) -> list[str]:
    """Second versions of one bundle, which a lost answer can leave, taken away."""
    by_key: dict[str, list[Version]] = defaultdict(list)
    for version in versions:
        by_key[version.key].append(version)
    aliases = ledger.registry.aliases(model)
    notes = []
    for key, twins in by_key.items():
        for twin in twins[1:] if key else []:
            text = f"{twin.name} was a second one of the bundle of version {twins[0].number}"
            if twin.number in aliases.values():
                notes.append(f"{text}; an alias names it, so it stays")
                continue
            carry_out(ledger, _intent(ledger, model, "pruned", twin, text))
            notes.append(f"{text}; it is deleted")
    return notes


def _tell_foreign_versions(ledger: Ledger, versions: list[Version]) -> list[str]:
    """Versions under our name that Nightloom did not make: recorded once, never moved."""
    notes = []
    for version in versions:
        identity = f"foreign-version-{version.model}-{version.number}"
        if version.key or ledger.find(identity) is not None:
            continue
        text = (
            f"{version.name} was not made by Nightloom: it has no tag {KEY_TAG}, or its files are "
            "those of no night"
        )
        intent = _intent(ledger, version.model, "found", version, text)
        carry_out(ledger, intent.model_copy(update={"id": identity}))
        notes.append(f"{text}; it can't be promoted, and is never deleted")
    return notes


def _tell_foreign_moves(ledger: Ledger, model: Model) -> list[str]:
    """Aliases that moved since the ledger's last entry."""
    now = ours(ledger.registry.aliases(model))
    last = ledger.last(model)
    before = {} if last is None else last.after
    changed = [alias for alias in DECIDED if now.get(alias) != before.get(alias)]
    if not changed:
        return []
    told = ", ".join(
        f"{alias} {before.get(alias, 'nothing')} -> {now.get(alias, 'nothing')}"
        for alias in changed
    )
    text = f"the ledger begins with the {model}'s aliases as they stand: {told}"
    if last is not None:
        text = f"something else than Nightloom moved aliases of the {model}: {told}"
    intent = _intent(ledger, model, "found", None, text)
    carry_out(ledger, intent.model_copy(update={"before": _decided(last)}))
    return [text]


def _decided(last: Entry | None) -> dict[str, int]:
    return {} if last is None else last.after


def _tell_capitals(ledger: Ledger, model: Model) -> list[str]:
    """Aliases that only look like ours: MLflow tells `Production` from `production`."""
    return [
        f"the alias {alias} -> {number} of the {model} is not `{alias.lower()}`, which alone is "
        "served: Nightloom's aliases are lower case. Take it away in MLflow, the alias alone"
        for alias, number in ledger.registry.aliases(model).items()
        if alias not in ALIASES and alias.lower() in ALIASES
    ]


def _intent(
    ledger: Ledger, model: Model, kind: Kind, version: Version | None, reason: str
) -> Intent:
    """A decision that moves no alias."""
    now = ours(ledger.registry.aliases(model))
    return Intent(
        id=new_identity(),
        kind=kind,
        model=model,
        version=None if version is None else version.number,
        key="" if version is None else version.key,
        by=_NOBODY if kind == "found" else "nightloom",
        reason=reason,
        evidence={},
        before=now,
        after=now,
        awaits=None,
        tags={},
        discards=kind == "pruned",
    )
