"""A decision carried out: written down first, so that what a kill cuts short can be finished.

The order: the intent as a tag of the registered model, the version's tags, the aliases, the one
that people are served from last; then they are read back, the ledger gets its entry, and the intent
goes. Each step may be made twice. Whoever holds the turn and finds an intent finishes it.
"""

from uuid import uuid4

from pydantic import ValidationError

from tasks.orchestration.ledger import FOREIGN, Entry, Ledger, Statement
from tasks.orchestration.moves import DECIDED, IN_ORDER, ours, stage_tag
from tasks.orchestration.registry import Registry
from tasks.orchestration.versions import STAGE_TAG, Model
from tasks.stage.errors import ConfigError, GateError

INTENT_TAG = "nightloom.intent"
# What MLflow's database holds in a tag of a registered model.
_MOST_CHARACTERS = 5000
_REASON_CHARACTERS = 1000


class Intent(Statement):
    """A statement to be made true: with the tags that its version gets, or its end."""

    tags: dict[str, str]
    discards: bool


def new_identity() -> str:
    """The id of a decision that is like no other."""
    return uuid4().hex


def shortened(reason: str) -> str:
    """A reason in the length that an entry can hold; what is cut ends in an ellipsis."""
    text = " ".join(reason.split())
    return text if len(text) <= _REASON_CHARACTERS else f"{text[: _REASON_CHARACTERS - 1]}…"


def pending(registry: Registry, model: Model) -> Intent | None:
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
    earlier = pending(ledger.registry, intent.model)
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
        strangers = _strangers(ledger.registry, intent)
        if not strangers:
            _do(ledger.registry, intent)
            strangers = _not_as_intended(ledger.registry, intent)
        if strangers:
            _give_up(ledger, intent, strangers)
    entry = ledger.append(statement).entry
    ledger.registry.delete_model_tag(intent.model, INTENT_TAG)
    return entry


def _do(registry: Registry, intent: Intent) -> None:
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
    for alias in IN_ORDER:
        wanted = intent.after.get(alias)
        if wanted is not None and now.get(alias) != wanted:
            registry.point(intent.model, alias, wanted)


def _strangers(registry: Registry, intent: Intent) -> list[str]:
    """Aliases that stand neither where they stood when it was decided nor where they should."""
    now = registry.aliases(intent.model)
    places = {alias: (intent.before.get(alias), intent.after.get(alias)) for alias in DECIDED}
    return [alias for alias, known in places.items() if now.get(alias) not in known]


def _not_as_intended(registry: Registry, intent: Intent) -> list[str]:
    now = registry.aliases(intent.model)
    return [alias for alias in DECIDED if now.get(alias) != intent.after.get(alias)]


def _give_up(ledger: Ledger, intent: Intent, strangers: list[str]) -> None:
    """Leave the aliases as something else has put them, say so in the ledger, and refuse.

    What the version's tags were to say never came true, so they say nothing.

    Raises:
        GateError: always.
    """
    registry, model = ledger.registry, intent.model
    now = ours(registry.aliases(model))
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
