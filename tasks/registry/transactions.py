"""Decisions carried out exactly once: written down first, finished by the next promoter.

The order: the intent as a tag of the registered model, the version's tags, the aliases, the one
that people are served from last; then they are read back, the ledger gets its entry, and the
intent goes. Each step may be made twice. Whoever holds the lock and finds an intent finishes it.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from tasks.records.schema import ServedModel
from tasks.registry.aliases import (
    DECIDED_ALIASES,
    SETTING_ORDER,
    AliasPlan,
    own_aliases,
    stage_tag,
)
from tasks.registry.client import Registry
from tasks.registry.ledger import FOREIGN, Entry, Kind, Ledger, Statement
from tasks.registry.versions import BUNDLE_TAG, KEY_TAG, STAGE_TAG, Version, model_name
from tasks.stage.errors import ConfigError, GateError

INTENT_TAG = "nightloom.intent"

# What MLflow's database holds in a tag of a registered model.
_MOST_CHARACTERS = 5000

_REASON_CHARACTERS = 1000

_NOT_US = "not through nightloom"

_logger = logging.getLogger(__name__)


class Intent(Statement):
    """A statement to be made true, with the tags that its version gets, or its deletion."""

    model: ServedModel
    tags: dict[str, str]
    discards: bool


def new_intent(
    ledger: Ledger,
    version: Version,
    kind: Kind,
    *,
    by: str,
    reason: str,
    plan: AliasPlan | None = None,
) -> Intent:
    """Return a decision about a version, ready to be carried out; without a plan it moves nothing.

    A version that is pruned is deleted.
    """
    now = own_aliases(ledger.registry.aliases(version.model))
    return Intent(
        id=uuid4().hex,
        kind=kind,
        model=version.model,
        version=version.number,
        key=version.key,
        by=by,
        reason=_shortened(reason),
        evidence={BUNDLE_TAG: version.tags[BUNDLE_TAG]} if BUNDLE_TAG in version.tags else {},
        before=now,
        after=now if plan is None else plan.after,
        awaits=None if plan is None else plan.awaits,
        tags={},
        discards=kind == "pruned",
    )


def pending_intent(registry: Registry, model: ServedModel) -> Intent | None:
    """Return the decision about a model that is being carried out or was cut short, if any.

    Raises:
        ConfigError: something else than Nightloom has changed it.
    """
    text = registry.model_tags(model).get(INTENT_TAG)
    if not text:
        return None
    try:
        return Intent.model_validate_json(text)
    except ValidationError:
        raise ConfigError(
            f"the tag {INTENT_TAG} of the registered {model} is no decision: {text[:80]!r}; "
            "Nightloom writes it before it moves an alias, and something else has changed it",
            "hold MLflow's aliases against `nightloom ledger`, note down what the tag says, then "
            f"take {INTENT_TAG} away in MLflow: the tag alone, no version and no alias",
        ) from None


def carry_out(ledger: Ledger, intent: Intent) -> Entry:
    """Carry a decision out and return its entry. Call it while holding the lock.

    Raises:
        GateError: something else moved an alias meanwhile; the ledger says so.
        ConfigError: an earlier decision is unfinished, or this one is too long to write down.
    """
    earlier = pending_intent(ledger.registry, intent.model)
    if earlier is not None and earlier.id != intent.id:
        raise ConfigError(
            f"a decision about the {intent.model} is unfinished: {earlier.kind}, version "
            f"{earlier.version}, by {earlier.by}",
            "run the command again: it is finished first",
        )
    text = intent.model_dump_json()
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(
            f"the decision has {len(text)} characters; MLflow's tags hold {_MOST_CHARACTERS}",
            "give a shorter reason",
        )
    ledger.registry.set_model_tag(intent.model, INTENT_TAG, text)
    return finish(ledger, intent)


def finish(ledger: Ledger, intent: Intent) -> Entry:
    """Finish a decision that was written down, however far it had come, and return its entry.

    Raises:
        GateError: something else moved an alias meanwhile; the ledger says so.
    """
    registry = ledger.registry
    if ledger.find(intent.id) is None:
        foreign = _foreign_aliases(registry, intent)
        if not foreign:
            _apply_intent(registry, intent)
            foreign = _unapplied_aliases(registry, intent)
        if foreign:
            raise _give_up(ledger, intent, foreign)
    entry = ledger.append(Statement(**_stated(intent))).entry
    registry.delete_model_tag(intent.model, INTENT_TAG)
    return entry


def _stated(intent: Intent) -> dict[str, Any]:
    return intent.model_dump(include=set(Statement.model_fields))


def _shortened(reason: str) -> str:
    """Return a reason in the length that an entry can hold; what is cut ends in an ellipsis."""
    text = " ".join(reason.split())
    return text if len(text) <= _REASON_CHARACTERS else f"{text[: _REASON_CHARACTERS - 1]}…"


def _apply_intent(registry: Registry, intent: Intent) -> None:
    """Set the tags, then the aliases; or delete the version."""
    versions = {version.number: version for version in registry.versions(intent.model)}
    version = versions.get(intent.version or 0)
    if intent.discards:
        if version is not None:
            registry.delete(version)
        return
    if version is not None:
        registry.tag(version, intent.tags)
    touched = {*intent.before.values(), *intent.after.values(), intent.version}
    for number in sorted(versions.keys() & touched):
        stage = stage_tag(number, intent.after)
        if versions[number].tags.get(STAGE_TAG) != stage:
            registry.tag(versions[number], {STAGE_TAG: stage})
    now = registry.aliases(intent.model)
    for alias in SETTING_ORDER:
        wanted = intent.after.get(alias)
        if wanted is not None and now.get(alias) != wanted:
            registry.point(intent.model, alias, wanted)


def _foreign_aliases(registry: Registry, intent: Intent) -> list[str]:
    """Return the aliases that are neither where they were at the decision nor where they should."""
    now = registry.aliases(intent.model)
    return [
        alias
        for alias in DECIDED_ALIASES
        if now.get(alias) not in (intent.before.get(alias), intent.after.get(alias))
    ]


def _unapplied_aliases(registry: Registry, intent: Intent) -> list[str]:
    now = registry.aliases(intent.model)
    return [alias for alias in DECIDED_ALIASES if now.get(alias) != intent.after.get(alias)]


def _give_up(ledger: Ledger, intent: Intent, foreign: Sequence[str]) -> GateError:
    """Leave the aliases as something else has put them, say so in the ledger, return the refusal.

    What the version's tags were to say never came true, so they say nothing.
    """
    registry, model = ledger.registry, intent.model
    now = own_aliases(registry.aliases(model))
    moved = ", ".join(f"{alias} -> {now.get(alias, 'nothing')}" for alias in foreign)
    what = f"{intent.kind}, version {intent.version}, by {intent.by}"
    text = f"something else than Nightloom moved {moved}, while this was being carried out: {what}"
    found = _stated(intent) | {
        "id": f"{intent.id}{FOREIGN}",
        "kind": "found",
        "after": now,
        "awaits": None,
        "reason": _shortened(f"{text} ({intent.reason})"),
    }
    ledger.append(Statement(**found))
    for version in registry.versions(model):
        if version.number == intent.version:
            registry.tag(version, dict.fromkeys(intent.tags, ""))
    registry.delete_model_tag(model, INTENT_TAG)
    return GateError(
        f"{text}. It is left as it is, so that nobody's decision is lost",
        "look at `nightloom ledger`, talk to whoever moved it in MLflow, and decide again",
    )


def reconcile(ledger: Ledger, model: ServedModel) -> list[str]:
    """Finish, mend or record what an earlier release or something else left; return a note on each.

    Call it while holding the lock, before any decision.
    """
    notes = _finish_earlier(ledger, model)
    notes += _record_foreign_moves(ledger, model)
    notes += _delete_duplicates(ledger, model)
    notes += _record_foreign_versions(ledger, model)
    return notes + _mend_stage_tags(ledger.registry, model)


def reconcile_and_log(ledger: Ledger, model: ServedModel) -> None:
    """Reconcile for a command that a person runs, who is told each note."""
    for note in reconcile(ledger, model):
        _logger.warning("%s", note)


def _finish_earlier(ledger: Ledger, model: ServedModel) -> list[str]:
    """Finish what a kill cut short."""
    intent = pending_intent(ledger.registry, model)
    if intent is None:
        return []
    try:
        finish(ledger, intent)
    except GateError as error:
        return [error.message]
    what = f"{intent.kind}, {model_name(model)} version {intent.version}, by {intent.by}"
    return [f"an earlier promoter had been cut short; finished now: {what}"]


def _record_foreign_moves(ledger: Ledger, model: ServedModel) -> list[str]:
    """Record aliases that moved since the ledger's last entry."""
    now = own_aliases(ledger.registry.aliases(model))
    last = ledger.last(model)
    before = {} if last is None else last.after
    changed = [alias for alias in DECIDED_ALIASES if now.get(alias) != before.get(alias)]
    if not changed:
        return []
    moves = ", ".join(
        f"{alias} {before.get(alias, 'nothing')} -> {now.get(alias, 'nothing')}"
        for alias in changed
    )
    text = f"the ledger begins with the {model}'s aliases as they stand: {moves}"
    if last is not None:
        text = f"something else than Nightloom moved aliases of the {model}: {moves}"
    found = Intent(
        id=uuid4().hex,
        kind="found",
        model=model,
        version=None,
        key="",
        by=_NOT_US,
        reason=text,
        evidence={},
        before=before,
        after=now,
        awaits=None,
        tags={},
        discards=False,
    )
    carry_out(ledger, found)
    return [text]


def _delete_duplicates(ledger: Ledger, model: ServedModel) -> list[str]:
    """Delete second versions of one bundle, which a lost answer can leave."""
    by_key: dict[str, list[Version]] = defaultdict(list)
    for version in ledger.registry.versions(model):
        by_key[version.key].append(version)
    by_key.pop("", None)
    aliases = ledger.registry.aliases(model)
    notes = []
    for first, *others in by_key.values():
        for version in others:
            text = f"{version.name} was a second one of the bundle of version {first.number}"
            if version.number in aliases.values():
                notes.append(f"{text}; an alias names it, so it stays")
                continue
            carry_out(ledger, new_intent(ledger, version, "pruned", by="nightloom", reason=text))
            notes.append(f"{text}; it is deleted")
    return notes


def _record_foreign_versions(ledger: Ledger, model: ServedModel) -> list[str]:
    """Record each version under our name that Nightloom did not make, once."""
    notes = []
    for version in ledger.registry.versions(model):
        identity = f"foreign-version-{model}-{version.number}"
        if version.key or ledger.find(identity) is not None:
            continue
        text = (
            f"{version.name} was not made by Nightloom: it has no tag {KEY_TAG}, or its files are "
            "those of no night"
        )
        intent = new_intent(ledger, version, "found", by=_NOT_US, reason=text)
        carry_out(ledger, intent.model_copy(update={"id": identity, "evidence": {}}))
        notes.append(f"{text}; it can't be promoted, and is never deleted")
    return notes


def _mend_stage_tags(registry: Registry, model: ServedModel) -> list[str]:
    """Set each tag `stage` that does not follow from the aliases."""
    aliases = registry.aliases(model)
    notes = []
    for version in registry.versions(model):
        stage = stage_tag(version.number, aliases)
        # A version that was made a moment ago and is no candidate yet keeps its `none`.
        newest = version.number > aliases.get("candidate", 0)
        if version.key and not newest and version.tags.get(STAGE_TAG) != stage:
            registry.tag(version, {STAGE_TAG: stage})
            found = version.tags.get(STAGE_TAG, "no stage")
            notes.append(f"{version.name} was tagged {found}; by its aliases it is {stage}")
    return notes
