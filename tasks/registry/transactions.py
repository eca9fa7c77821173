"""Decisions carried out exactly once: written down first, finished by the next promoter.

The order: the intent as a tag of the registered model, the version's tags, the aliases, the one
that people are served from last; then they are read back, the ledger gets its entry, and the
intent goes. Each step may be made twice. Whoever holds the lock and finds an intent finishes it."""

import logging
from collections import defaultdict
from uuid import uuid4

from pydantic import ValidationError

from tasks.records.schema import ServedModel
from tasks.registry.aliases import ALIASES, DECIDED_ALIASES, SETTING_ORDER, own_aliases, stage_tag
from tasks.registry.client import Registry
from tasks.registry.ledger import FOREIGN, Entry, Kind, Ledger, Statement
from tasks.registry.versions import BUNDLE_TAG, KEY_TAG, STAGE_TAG, Version, model_name
from tasks.stage.errors import ConfigError, GateError

INTENT_TAG = "nightloom.intent"

# What MLflow's database holds in a tag of a registered model.
_MOST_CHARACTERS = 5000

_REASON_CHARACTERS = 1000


class Intent(Statement):
    """A statement to be made true: with the tags that its version gets, or its end."""

    tags: dict[str, str]
    discards: bool


def new_decision_id() -> str:
    """The id of a decision that is like no other."""
    return uuid4().hex


def shortened(reason: str) -> str:
    """A reason in the length that an entry can hold; what is cut ends in an ellipsis."""
    text = " ".join(reason.split())
    return text if len(text) <= _REASON_CHARACTERS else f"{text[: _REASON_CHARACTERS - 1]}…"


def pending_intent(registry: Registry, model: ServedModel) -> Intent | None:
    """The decision about a model that is being carried out, or was cut short; None without one."""
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
    """The ledger's entry of a decision, once all of it is done. Call it while holding the turn.

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
    """The ledger's entry of a decision that was written down, however far it had come.

    Raises:
        GateError: something else moved an alias meanwhile; the ledger says so.
    """
    statement = Statement(**intent.model_dump(include=set(Statement.model_fields)))
    if ledger.find(intent.id) is None:
        strangers = _foreign_aliases(ledger.registry, intent)
        if not strangers:
            _apply_intent(ledger.registry, intent)
            strangers = _unapplied_aliases(ledger.registry, intent)
        if strangers:
            _give_up(ledger, intent, strangers)
    entry = ledger.append(statement).entry
    ledger.registry.delete_model_tag(intent.model, INTENT_TAG)
    return entry


def _apply_intent(registry: Registry, intent: Intent) -> None:
    """The tags, then the aliases; or the version's end."""
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
    """Aliases that stand neither where they stood when it was decided nor where they should."""
    now = registry.aliases(intent.model)
    places = {
        alias: (intent.before.get(alias), intent.after.get(alias)) for alias in DECIDED_ALIASES
    }
    return [alias for alias, known in places.items() if now.get(alias) not in known]


def _unapplied_aliases(registry: Registry, intent: Intent) -> list[str]:
    now = registry.aliases(intent.model)
    return [alias for alias in DECIDED_ALIASES if now.get(alias) != intent.after.get(alias)]


def _give_up(ledger: Ledger, intent: Intent, strangers: list[str]) -> None:
    """Leave the aliases as something else has put them, say so in the ledger, and refuse.

    What the version's tags were to say never came true, so they say nothing.

    Raises:
        GateError: always.
    """
    registry, model = ledger.registry, intent.model
    now = own_aliases(registry.aliases(model))
    told = ", ".join(f"{alias} -> {now.get(alias, 'nothing')}" for alias in strangers)
    what = f"{intent.kind}, version {intent.version}, by {intent.by}"
    text = f"something else than Nightloom moved {told}, while this was being carried out: {what}"
    found = intent.model_dump(include=set(Statement.model_fields)) | {
        "id": f"{intent.id}{FOREIGN}",
        "kind": "found",
        "after": now,
        "awaits": None,
        "reason": shortened(f"{text} ({intent.reason})"),
    }
    ledger.append(Statement(**found))
    for version in registry.versions(model):
        if version.number == intent.version:
            registry.tag(version, dict.fromkeys(intent.tags, ""))
    registry.delete_model_tag(model, INTENT_TAG)
    raise GateError(
        f"{text}. It is left as it is, so that nobody's decision is lost",
        "look at `nightloom ledger`, talk to whoever moved it in MLflow, and decide again",
    )


_NOBODY = "not through nightloom"

_logger = logging.getLogger(__name__)


def reconcile(ledger: Ledger, model: ServedModel) -> list[str]:
    """What was found of a model that an earlier release had not left so, now mended or recorded.

    Call it while holding the turn, before any decision.
    """
    notes = _finish_earlier(ledger, model)
    notes += _tell_foreign_moves(ledger, model)
    versions = ledger.registry.versions(model)
    notes += _tag_untagged(ledger, versions)
    if notes:
        versions = ledger.registry.versions(model)
    notes += _drop_duplicates(ledger, model, versions)
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


def reconcile_and_log(ledger: Ledger, model: ServedModel) -> None:
    """The same for a command that a person runs, who is told each note."""
    for note in reconcile(ledger, model):
        _logger.warning("%s", note)


def _finish_earlier(ledger: Ledger, model: ServedModel) -> list[str]:
    """What a kill cut short, finished."""
    intent = pending_intent(ledger.registry, model)
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


def _drop_duplicates(ledger: Ledger, model: ServedModel, versions: list[Version]) -> list[str]:
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
            carry_out(ledger, _intent_without_move(ledger, model, "pruned", twin, text))
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
        intent = _intent_without_move(ledger, version.model, "found", version, text)
        carry_out(ledger, intent.model_copy(update={"id": identity}))
        notes.append(f"{text}; it can't be promoted, and is never deleted")
    return notes


def _tell_foreign_moves(ledger: Ledger, model: ServedModel) -> list[str]:
    """Aliases that moved since the ledger's last entry."""
    now = own_aliases(ledger.registry.aliases(model))
    last = ledger.last(model)
    before = {} if last is None else last.after
    changed = [alias for alias in DECIDED_ALIASES if now.get(alias) != before.get(alias)]
    if not changed:
        return []
    told = ", ".join(
        f"{alias} {before.get(alias, 'nothing')} -> {now.get(alias, 'nothing')}"
        for alias in changed
    )
    text = f"the ledger begins with the {model}'s aliases as they stand: {told}"
    if last is not None:
        text = f"something else than Nightloom moved aliases of the {model}: {told}"
    intent = _intent_without_move(ledger, model, "found", None, text)
    carry_out(ledger, intent.model_copy(update={"before": _aliases_decided(last)}))
    return [text]


def _aliases_decided(last: Entry | None) -> dict[str, int]:
    return {} if last is None else last.after


def _tell_capitals(ledger: Ledger, model: ServedModel) -> list[str]:
    """Aliases that only look like ours: MLflow tells `Production` from `production`."""
    return [
        f"the alias {alias} -> {number} of the {model} is not `{alias.lower()}`, which alone is "
        "served: Nightloom's aliases are lower case. Take it away in MLflow, the alias alone"
        for alias, number in ledger.registry.aliases(model).items()
        if alias not in ALIASES and alias.lower() in ALIASES
    ]


def _intent_without_move(
    ledger: Ledger, model: ServedModel, kind: Kind, version: Version | None, reason: str
) -> Intent:
    """A decision that moves no alias."""
    now = own_aliases(ledger.registry.aliases(model))
    return Intent(
        id=new_decision_id(),
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
