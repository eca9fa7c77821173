"""The ledger: every decision about a version, each entry chained to the last by its SHA-256.

An entry is a param of one MLflow run, named by its number. MLflow lets nobody change or delete a
param, and refuses a second value under a name: so an append is atomic, one that is made twice is
one, and of two at once the second finds the number taken. What changes the database itself is found
by the chain, and what cuts its end off by the head: the last entry's number and hash, which each
registered model carries as a tag. Who rewrites all entries from one on, and the heads, is found by
nobody but the one who noted a hash down elsewhere.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.records.schema import ServedModel
from tasks.registry.client import Registry
from tasks.registry.versions import MODELS, RegistryStage
from tasks.services.stores import (
    LEDGER,
    Stores,
    find_experiment,
    made_once,
    open_experiment,
    retrying_client,
)
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import file_sha256

_FILES = "files"  # of what entries name by its hash
HEAD_TAG = "nightloom.ledger"
BEGINNING = "0" * 64
FOREIGN = "-foreign"  # ends the id of what was found instead of a decision
# MLflow cuts a longer param without a word.
_MOST_CHARACTERS = 6000
_APPENDS_AT_ONCE = 20

Kind = Literal[
    "promoted", "refused", "moved", "rolled_back", "approved", "rejected", "expired", "pruned",
    "found", "withdrawn", "restored", "erased",
]  # fmt: skip


class Statement(BaseModel):
    """What was decided about a version: by whom, why, on which evidence, and what it moved.

    `id` is the decision's own: the same decision made again is the same statement. `evidence` are
    hashes by name, what reigned when it was judged, and despite which verdict a person moved it.
    `awaits` is the stage for which a person is asked next. What is `found` was done by something
    else than Nightloom. What is decided about data names no model; what was erased, besides, each
    version that held it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Kind
    model: ServedModel | None
    version: int | None
    key: str = Field(description="the promotion key of the version, empty without one")
    by: str
    reason: str
    evidence: dict[str, str]
    before: dict[str, int]
    after: dict[str, int]
    awaits: RegistryStage | None

    @property
    def reasons(self) -> list[str]:
        """Return what the reason is made of: what was said of each rule, or what a person wrote."""
        said_of = f"{self.model}: "
        return self.reason.removeprefix(said_of).split(f"; {said_of}")


class Entry(Statement):
    """A statement in its place: `previous` is the hash of the entry before."""

    number: int
    time: str
    previous: str


@dataclass(frozen=True)
class Link:
    """One entry as it is kept, and its hash."""

    entry: Entry
    sha256: str


@dataclass(frozen=True)
class Audit:
    """What is wrong with a ledger; nothing is where `faults` is empty."""

    entries: int
    head: str
    faults: tuple[str, ...]


class Ledger:
    """The ledger of one MLflow store. Only the promoter that holds the lock appends."""

    def __init__(self, stores: Stores, registry: Registry) -> None:
        """Open it; nothing is written before the first entry."""
        self._client = retrying_client(MlflowClient, stores.tracking_uri)
        self._location = stores.location
        self.registry = registry

    def links(self, model: ServedModel | None = None) -> list[Link]:
        """Return all entries that can be read, oldest first, or those about one model."""
        links = _readable(self._kept())
        return [item for item in links if model in (None, item.entry.model)]

    def find(self, identity: str) -> Link | None:
        """Return the entry of a decision, None if it is not in the ledger."""
        return _entry_of(self._kept(), identity)

    def last(self, model: ServedModel) -> Entry | None:
        """Return the last entry about a model, None before the first."""
        links = self.links(model)
        return links[-1].entry if links else None

    def append(self, statement: Statement) -> Link:
        """Return the entry of a statement, appended if it is new; the head then names it.

        Raises:
            ConfigError: it is longer than MLflow keeps, or others append without end.
        """
        for _ in range(_APPENDS_AT_ONCE):
            heads, kept = self._heads(), self._kept()
            known = _entry_of(kept, statement.id)
            link = known or self._try_append(statement, _end(heads, kept))
            if link is not None:
                # A head that is there is never written again: it is what a changed entry shows by.
                if all(link.entry.number > head.number for head in heads.values()):
                    for model in heads if statement.model is None else (statement.model,):
                        self.registry.set_model_tag(model, HEAD_TAG, _head(link))
                return link
        raise ConfigError(
            f"{_APPENDS_AT_ONCE} times somebody else appended first to the ledger in MLflow",
            "let promoters share a Prefect server or a checkout, so that they take turns",
        )

    def audit(self, *, pending: Container[str]) -> Audit:
        """Check the chain and the heads.

        `pending` are the ids of decisions that are being carried out: the head may not name theirs
        yet.
        """
        kept = self._kept()
        faults = list(self._second_ledgers())
        end = _End(0, BEGINNING)
        for name, link in zip(sorted(kept), _links(kept), strict=True):
            faults += _chain_faults(name, link, end)
            end = _End(int(name) if name.isdigit() else end.number, _sha256(kept[name]))
        faults += self._head_faults(kept, pending)
        return Audit(len(kept), end.sha256 if kept else "", tuple(faults))

    def keep_file(self, path: Path) -> None:
        """Keep a file beside the entries, once, under the SHA-256 of its bytes and its ending."""
        run, name = self._run(), f"{file_sha256(path)}{path.suffix}"
        if f"{_FILES}/{name}" in {item.path for item in self._client.list_artifacts(run, _FILES)}:
            return
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(path, Path(folder) / name)
            self._client.log_artifact(run, str(Path(folder) / name), _FILES)

    def kept_file(self, name: str, downloads: Path) -> Path | None:
        """Return a file that was kept, `SHA256.ENDING`, as it lies in `downloads`.

        None where it is lost, or is not what was kept.
        """
        place = downloads / _FILES / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                found = self._client.download_artifacts(self._run(), f"{_FILES}/{name}")
            except (MlflowException, OSError):
                return None
            partial = place.with_name(f".{name}.partial")
            shutil.copyfile(found, partial)
            partial.rename(place)
        return place if file_sha256(place) == Path(name).stem else None

    def _heads(self) -> dict[ServedModel, "_End"]:
        heads = {model: self.registry.model_tags(model).get(HEAD_TAG, "") for model in MODELS}
        return {model: _read_head(head) for model, head in heads.items() if head}

    def _head_faults(self, kept: Mapping[str, str], pending: Container[str]) -> list[str]:
        """Return where the heads that the registered models carry differ from the entries."""
        faults, highest = [], 0
        for model, end in self._heads().items():
            highest = max(highest, end.number)
            text = kept.get(_name(end.number))
            found = "no such entry" if text is None else _sha256(text)
            if found != end.sha256:
                faults.append(
                    f"entry {end.number}: the head that the {model} carries says "
                    f"{end.sha256[:12]}, found {found[:13]}"
                )
        return faults + [
            f"entry {entry.number}: no head names it, and no decision that is being carried out "
            "made it"
            for entry in (link.entry for link in _readable(kept))
            if entry.number > highest
            and entry.id.removesuffix(FOREIGN) not in pending
            # Before any model is registered there is none that could carry a head.
            and (highest or entry.model is not None)
        ]

    def _second_ledgers(self) -> list[str]:
        others = [run for run in self._runs()[1:] if run.data.params]
        return [f"run {run.info.run_id} is a second ledger beside the first" for run in others]

    def _try_append(self, statement: Statement, end: "_End") -> Link | None:
        """Append the next entry; return None if somebody else's came first."""
        entry = Entry(
            number=end.number + 1,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            previous=end.sha256,
            **statement.model_dump(include=set(Statement.model_fields)),
        )
        text = entry.model_dump_json()
        if len(text) > _MOST_CHARACTERS:
            raise ConfigError(
                f"the ledger's entry would have {len(text)} characters; MLflow keeps "
                f"{_MOST_CHARACTERS}, and cuts what is longer",
                "give a shorter reason",
            )
        try:
            self._client.log_param(self._run(), _name(entry.number), text)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            return None
        return Link(entry, _sha256(text))

    def _kept(self) -> Mapping[str, str]:
        runs = self._runs()
        return dict(runs[0].data.params) if runs else {}

    def _runs(self) -> list[Any]:
        """Return the ledger's runs: one, unless somebody else made more. The first counts."""
        experiment = find_experiment(self._client, LEDGER)
        if experiment is None:
            return []
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        return list(self._client.search_runs([experiment.experiment_id], order_by=order))

    def _run(self) -> str:
        """Return the id of the ledger's run, made if there is none."""
        runs = self._runs()
        if not runs:
            experiment = open_experiment(self._client, LEDGER, self._location)
            made_once(
                lambda: next(iter(self._runs()), None),
                lambda: self._client.create_run(experiment, run_name="ledger"),
                self._client.tracking_uri,
            )
            runs = self._runs()  # of two that are made at once, the first counts
        return str(runs[0].info.run_id)


@dataclass(frozen=True)
class _End:
    """The number and hash of the entry that the next one follows."""

    number: int
    sha256: str


def _sha256(text: str) -> str:
    """Return the hash as `sha256sum` takes it, so that anybody can follow the chain."""
    return hashlib.sha256(text.encode()).hexdigest()


def _name(number: int) -> str:
    return f"{number:08d}"


def _head(link: Link) -> str:
    return f"{link.entry.number}:{link.sha256}"


def _read_head(text: str) -> _End:
    number, _, sha256 = text.partition(":")
    return _End(int(number) if number.isdigit() else 0, sha256)


def _links(kept: Mapping[str, str]) -> list[Link | str]:
    """Return each entry in order of its number, or the text that is no entry."""
    links: list[Link | str] = []
    for name in sorted(kept):
        try:
            links.append(Link(Entry.model_validate_json(kept[name]), _sha256(kept[name])))
        except ValidationError:
            links.append(kept[name])
    return links


def _readable(kept: Mapping[str, str]) -> list[Link]:
    """Return the entries that can be read, oldest first."""
    return [link for link in _links(kept) if isinstance(link, Link)]


def _entry_of(kept: Mapping[str, str], identity: str) -> Link | None:
    """Return the entry of a decision, None if it is not there."""
    return next((item for item in _readable(kept) if item.entry.id == identity), None)


def _end(heads: Mapping[ServedModel, _End], kept: Mapping[str, str]) -> _End:
    """Return where the next entry goes: after the last one, or after the one that a head names.

    A head counts before the entry that it names. So where the last entry was changed or the end cut
    off, the chain does not fit for the audit to find, and promotion goes on.
    """
    ends = [_End(int(name), _sha256(text)) for name, text in kept.items() if name.isdigit()]
    return max([*heads.values(), *ends, _End(0, BEGINNING)], key=lambda end: end.number)


def _chain_faults(name: str, link: Link | str, end: _End) -> list[str]:
    """Return what is wrong with one entry, kept under a name, after the one at `end`."""
    number = name.lstrip("0")
    if isinstance(link, str):
        return [f"entry {number} is none: {link[:60]!r}"]
    entry = link.entry
    faults = []
    if name != _name(end.number + 1):
        faults.append(f"entry {end.number + 1} is missing: the next one is {number}")
    if _name(entry.number) != name:
        faults.append(f"entry {number} says that it is number {entry.number}")
    if entry.previous != end.sha256:
        faults.append(
            f"entry {number} follows {entry.previous[:12]}, but the one before it is "
            f"{end.sha256[:12]}: one of the two was changed, moved or taken out"
        )
    return faults
