"""Decisions of people and policies about a version: promotion, moves and rollbacks."""

import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.records.schema import ServedModel
from tasks.registry.aliases import (
    AliasPlan,
    Champion,
    advance,
    aliases_after,
    find_champion,
)
from tasks.registry.audit import check_verdict, checked_bundle, foreign_version_error, verdict_on
from tasks.registry.client import Registry
from tasks.registry.erased import check_not_erased, erased_versions
from tasks.registry.ledger import Entry, Kind, Ledger
from tasks.registry.params import ReleaseParams
from tasks.registry.transactions import (
    carry_out,
    new_intent,
    pending_intent,
    reconcile_and_log,
)
from tasks.registry.versions import MODELS, RegistryStage, Version
from tasks.stage.errors import ConfigError, GateError

POLICY = "nightloom"

_SHORTEST_REASON, _LONGEST_REASON, _LONGEST_NAME = 3, 900, 100

# Control characters, those that turn the direction of text or can't be seen, and broken UTF-8; but
# scripts and emoji are written with the two joiners.
_UNSEEN, _JOINERS = {"Cc", "Cf", "Cs"}, "\u200c\u200d"


def other_champion(registry: Registry, version: Version) -> Champion | None:
    """Return the champion that a version is compared with; None for the champion itself."""
    champion = find_champion(registry.aliases(version.model))
    return None if champion is None or champion.number == version.number else champion


def all_aliases(registry: Registry) -> dict[str, dict[str, int]]:
    """Return model -> alias -> version number."""
    return {model: registry.aliases(model) for model in MODELS}


def all_champions(registry: Registry) -> dict[ServedModel, Version]:
    """Return the version of each model's champion; nothing of a model without one."""
    found = {model: find_champion(registry.aliases(model)) for model in MODELS}
    return {
        model: registry.version(model, champion.number)
        for model, champion in found.items()
        if champion is not None
    }


def record_verdict(
    ledger: Ledger,
    version: Version,
    params: ReleaseParams,
    *,
    promoted: bool,
    reason: str,
    evidence: Mapping[str, str],
    tags: Mapping[str, str],
) -> Entry:
    """Record a verdict, move the version as far as the policies let it go, return the entry."""
    kind: Kind = "promoted" if promoted else "refused"
    plan = None
    if promoted:
        aliases = ledger.registry.aliases(version.model)
        plan = advance(aliases, version.number, params, reached=None)
    intent = new_intent(ledger, version, kind, by=POLICY, reason=reason, plan=plan)
    more = {"evidence": intent.evidence | dict(evidence), "tags": dict(tags)}
    return carry_out(ledger, intent.model_copy(update=more))


def check_champion(registry: Registry, model: ServedModel) -> None:
    """Check that Nightloom made the champion, if there is one.

    Raises:
        GateError: something else put a version of its own there.
    """
    champion = find_champion(registry.aliases(model))
    if champion is None:
        return
    version = registry.version(model, champion.number)
    if not version.key:
        raise GateError(
            f"{champion.alias} names {version.name}, which Nightloom did not make: nothing is "
            "known of how it scores, so nothing can be shown to be no worse",
            f"`nightloom promote VERSION --model {model} --to {champion.alias} --reason ...` puts "
            "one of Nightloom's there",
        )


def promote(
    ledger: Ledger,
    model: ServedModel,
    number: int | None,
    to: RegistryStage,
    *,
    by: str,
    reason: str,
    despite_refusal: bool,
    downloads: Path,
) -> Entry | None:
    """Move a version to a stage by hand; return the entry, None if it was there already.

    Without a number it is the version one stage before: staging's, or the candidate.

    Raises:
        ConfigError: there is no such version, or no reason.
        GateError: the version was refused, not judged, not made by Nightloom, or held what was
            erased since; or its tags say otherwise than the ledger.
        DataError: its bundle is not as it was registered.
    """
    check_signature(by, reason)
    reconcile_and_log(ledger, model)
    aliases = ledger.registry.aliases(model)
    wanted = _default(model, aliases, to) if number is None else number
    version = ledger.registry.version(model, wanted)
    if not version.key:
        raise foreign_version_error(version)
    if aliases.get(to) == version.number:
        return None
    check_not_erased(ledger, version)
    check_verdict(ledger, version, despite_refusal=despite_refusal)
    checked_bundle(ledger, version, downloads)
    return _move(ledger, version, to, kind="moved", by=by, why=reason)


def rollback_target(ledger: Ledger, model: ServedModel, number: int | None) -> Version:
    """Return the version to roll back to: the given one, else the last of ours in production.

    One that held what was erased since is passed over.

    Raises:
        ConfigError: nothing was in production before, or that one never was, or is now.
        GateError: the given one held what was erased since.
    """
    aliases = ledger.registry.aliases(model)
    known = were_in_production(ledger, model)
    erased = erased_versions(ledger, model)
    there = set(ledger.registry.numbers(model)) - {aliases.get("production")} - erased.keys()
    wanted = number
    if wanted is None:
        last = [*known, *(number for name, number in aliases.items() if name == "previous")]
        wanted = next((one for one in last if one in there), None)
    if wanted is None:
        passed = f"; {len(erased)} versions held what was erased since" if erased else ""
        raise ConfigError(
            f"no version of the {model} was in production before; found aliases "
            f"{_shown(aliases)}{passed}",
            "roll back only after a second `nightloom promote`",
        )
    version = ledger.registry.version(model, wanted)
    check_not_erased(ledger, version)
    if wanted == aliases.get("production"):
        raise ConfigError(f"{version.name} is in production now", "name another one with --to")
    if wanted not in {*known, aliases.get("previous")}:
        raise ConfigError(
            f"{version.name} was never in production, so there is no going back to it",
            f"`nightloom promote {wanted} --to production --reason ...` moves it there",
        )
    return version


def roll_back(
    ledger: Ledger,
    model: ServedModel,
    number: int | None,
    *,
    by: str,
    reason: str,
    leaving: int | None,
    downloads: Path,
    rehearse: Callable[[Path], str],
) -> Entry:
    """Move `production` back to a version that was there before, and return the entry.

    `leaving` is what was in production when it was asked for, before the lock was held. `rehearse`
    asks a bundle its golden prompts, and returns in a sentence how it went. A rollback that a kill
    cut short is finished, and not made a second time.

    Raises:
        ConfigError: there is no way back, no reason, or production is another one by now.
        DataError: the old bundle is not as it was registered.
        GateError: it does not answer as recorded; or something else than Nightloom had put it in
            production, and the rules did not let it pass.
    """
    check_signature(by, reason)
    earlier = pending_intent(ledger.registry, model)
    reconcile_and_log(ledger, model)
    done = None if earlier is None else ledger.find(earlier.id)
    if done is not None and done.entry.kind == "rolled_back":
        return done.entry
    _check_left(ledger.registry, model, leaving)
    version = rollback_target(ledger, model, number)
    if not version.key:
        raise foreign_version_error(version)
    if version.number not in were_in_production(ledger, model):
        check_verdict(ledger, version, despite_refusal=False)
    said = rehearse(checked_bundle(ledger, version, downloads))
    return _move(ledger, version, "production", kind="rolled_back", by=by, why=f"{reason} ({said})")


def were_in_production(ledger: Ledger, model: ServedModel) -> list[int]:
    """Return the versions that a decision put in production, by the ledger, the last one first.

    What something else put there was found, not decided.
    """
    decided = [link.entry for link in ledger.links(model) if link.entry.kind != "found"]
    places = [(item.before.get("production"), item.after.get("production")) for item in decided]
    numbers = [now for before, now in reversed(places) if now is not None and now != before]
    return list(dict.fromkeys(numbers))


def recent_champions(ledger: Ledger, model: ServedModel, nights: int) -> list[int]:
    """Return the versions that were champion in the last nights with a verdict, the latest first.

    The champion that the first of these nights found is one of them.
    """
    found, verdicts = list[Champion | None](), 0
    for entry in (link.entry for link in reversed(ledger.links(model))):
        found.append(find_champion(entry.after))
        verdicts += entry.kind in ("promoted", "refused")
        if verdicts == nights:
            found.append(find_champion(entry.before))
            break
    return list(dict.fromkeys(champion.number for champion in found if champion is not None))


def _move(
    ledger: Ledger, version: Version, to: RegistryStage, *, kind: Kind, by: str, why: str
) -> Entry:
    """Move a version to a stage, for a person's reason and by the verdict on it."""
    aliases = ledger.registry.aliases(version.model)
    after = aliases_after(aliases, version.number, to)
    _skip_foreign(ledger.registry, version.model, aliases, after)
    plan = AliasPlan(after, awaits=None)
    intent = new_intent(ledger, version, kind, by=by, reason=why, plan=plan)
    link = verdict_on(ledger, version)
    verdict = "none" if link is None else link.sha256
    evidence = intent.evidence | {"verdict": verdict}
    if link is None or link.entry.kind == "refused":
        evidence["despite"] = "no verdict" if link is None else "refused"
    return carry_out(ledger, intent.model_copy(update={"evidence": evidence}))


def _check_left(registry: Registry, model: ServedModel, leaving: int | None) -> None:
    """Refuse where production is another version by now than the one to be left."""
    now = registry.aliases(model).get("production")
    if now != leaving:
        raise ConfigError(
            f"production named version {leaving} of the {model} when you asked, and names {now} "
            "now: somebody else decided first",
            "look at `nightloom ledger`, and roll back again if that is still what you want",
        )


def check_signature(by: str, reason: str) -> None:
    """Refuse what a reader of the ledger could take for something else than was said."""
    for name, text, allowed in (("name", by, _JOINERS), ("reason", reason, _JOINERS + "\n\t")):
        odd = [
            sign for sign in text if unicodedata.category(sign) in _UNSEEN and sign not in allowed
        ]
        if odd:
            raise ConfigError(
                f"the {name} {text[:80]!r} holds {odd[0]!r}, which is no character of a text: the "
                "ledger could be read otherwise than it was written",
                "leave out control characters, and give UTF-8",
            )
    if not 0 < len(by.strip()) <= _LONGEST_NAME:
        raise ConfigError(
            f"the name is {by[:80]!r}, {len(by)} characters; expected 1 to {_LONGEST_NAME}",
            "say --by and who decides",
        )
    if not _SHORTEST_REASON <= len(reason.strip()) <= _LONGEST_REASON:
        raise ConfigError(
            f"the reason is {reason[:80]!r}, {len(reason.strip())} characters; expected a sentence "
            f"of {_SHORTEST_REASON} to {_LONGEST_REASON}, which the ledger keeps",
            'say why, e.g. --reason "checked 20 answers by hand"',
        )


def _default(model: ServedModel, aliases: Mapping[str, int], to: RegistryStage) -> int:
    before = "staging" if to == "production" else "candidate"
    if before not in aliases:
        what = "in staging" if before == "staging" else "a candidate"
        raise ConfigError(
            f"no version of the {model} is {what}; found aliases {_shown(aliases)}",
            "run `nightloom run` until a night is promoted, or name one: `nightloom promote N`",
        )
    return aliases[before]


def _skip_foreign(
    registry: Registry, model: ServedModel, before: Mapping[str, int], after: dict[str, int]
) -> None:
    """Let `previous` stay where it is when a version that we did not make leaves production."""
    left = before.get("production")
    if left is None or after.get("previous") != left or registry.version(model, left).key:
        return
    del after["previous"]
    if "previous" in before:
        after["previous"] = before["previous"]


def _shown(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{name} -> {number}" for name, number in aliases.items()) or "none"
