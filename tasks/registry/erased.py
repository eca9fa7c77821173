"""Versions that held what was erased since: the ledger names them, and nothing goes back to one."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.records.schema import ServedModel
from tasks.registry.client import Registry
from tasks.registry.ledger import Entry, Ledger
from tasks.registry.transactions import carry_out, new_intent
from tasks.registry.versions import MODELS, Version
from tasks.scoring.record_hashes import LEARNED_FILE, hash_ids, read_hashes
from tasks.services.traces import Traces
from tasks.stage.errors import DataError, GateError

# Of a version; its value is what params said should become of one that serves.
ERASED_TAG = "erased"
ERASURE = "erasure"  # names an erasure in an entry's evidence

_SERVED = ("production", "staging", "candidate")


@dataclass(frozen=True)
class ErasedChampion:
    """A version that an alias names though it held what was erased, and the entry that says so."""

    version: Version
    alias: str
    entry: Entry

    @property
    def told(self) -> str:
        """Return it in a sentence."""
        return (
            f"{self.version.name} is in {self.alias} and held rows that were erased on "
            f"{self.entry.time[:10]}: promote a version that was trained since, then `nightloom "
            "prune --yes` deletes it"
        )


def holds(bundle: Path, names: Collection[str], traces: Traces) -> bool:
    """Return whether a version learned one of these ids, or a file beside its bundle holds one.

    One that does not say what it learned counts as one that did.
    """
    learned = next(iter(bundle.rglob(LEARNED_FILE)), None)
    if learned is None or np.isin(hash_ids(names), read_hashes(learned)).any():
        return True
    whole = bundle.parent.parent  # MLflow keeps an example of a question beside the bundle
    return any(traces.in_file(path) for path in sorted(whole.rglob("*")) if path.is_file())


def find_holders(
    registry: Registry, names: Collection[str], traces: Traces, downloads: Path
) -> list[Version]:
    """Return the versions of both models that held one of these ids, or a text of their rows."""
    found = []
    for version in (one for model in MODELS for one in registry.versions(model) if one.key):
        try:
            bundle = registry.bundle(version.model, version.number, downloads)
        except DataError:  # its files are gone, or are others: nothing shows that it did not
            found.append(version)
            continue
        if holds(bundle, names, traces):
            found.append(version)
    return found


def record_erased(
    ledger: Ledger,
    version: Version,
    *,
    erasure: str,
    by: str,
    reason: str,
    policy: Literal["keep", "stop"],
) -> Entry:
    """Let the ledger and a tag say that a version held what was erased; call it under the lock."""
    intent = new_intent(ledger, version, "erased", by=by, reason=f"held what was erased: {reason}")
    more = {"evidence": intent.evidence | {ERASURE: erasure}, "tags": {ERASED_TAG: policy}}
    return carry_out(ledger, intent.model_copy(update=more))


def erased_versions(ledger: Ledger, model: ServedModel) -> dict[int, Entry]:
    """Return the entry of each version of a model that held what was erased, by its number."""
    entries = [link.entry for link in ledger.links(model)]
    return {x.version: x for x in entries if x.kind == "erased" and x.version is not None}


def erased_champions(ledger: Ledger) -> list[ErasedChampion]:
    """Return the versions that people are answered by though they held what was erased."""
    found = []
    for model in MODELS:
        aliases, erased = ledger.registry.aliases(model), erased_versions(ledger, model)
        alias = next((name for name in _SERVED if name in aliases), None)
        if alias is not None and aliases[alias] in erased:
            version = ledger.registry.version(model, aliases[alias])
            found.append(ErasedChampion(version, alias, erased[version.number]))
    return found


def check_not_erased(ledger: Ledger, version: Version) -> None:
    """Check that a version that is to serve held nothing that was erased.

    Raises:
        GateError: it did.
    """
    entry = erased_versions(ledger, version.model).get(version.number)
    if entry is not None:
        raise GateError(
            f"{version.name} held rows that were erased on {entry.time[:10]} by {entry.by} (entry "
            f"{entry.number} of the ledger): nothing goes back to it",
            "name another version, or run `nightloom run`, which trains one without these rows",
        )


def check_may_serve(registry: Registry, model: ServedModel, number: int) -> None:
    """Check that params let a version serve, if it held what was erased.

    Raises:
        GateError: release.erased_champion was `stop` when it was erased.
    """
    version = registry.version(model, number)
    if version.tags.get(ERASED_TAG) == "stop":
        raise GateError(
            f"{version.name} held rows that were erased, and release.erased_champion is stop: it "
            "answers nobody",
            "run `nightloom run` and promote the version that it trains without these rows",
        )
