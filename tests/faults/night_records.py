"""What must hold once a disturbed night was followed by one that went well.

Read from the files and databases themselves, not by the code that wrote them.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tasks.registry.audit import audit
from tasks.registry.client import Registry
from tasks.registry.ledger import Ledger
from tasks.registry.versions import KEY_TAG
from tasks.services.stores import LEDGER, Stores
from tests.faults.night_site import Site, folder_digest

WRONG, ORPHAN, OPEN, UNTOLD, STUCK = (
    "silently wrong", "orphan", "open record", "not told", "not recovered",
)  # fmt: skip

_OPEN_STATES = "('RUNNING', 'PENDING', 'PAUSED', 'CANCELLING')"


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold; `kind` is the column of the table in which it counts."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Kept:
    """What a site holds before a fault that no fault may take away."""

    outs: dict[str, tuple[str, str]]
    rows: str
    versions: dict[tuple[str, int], str]
    nights: frozenset[str]

    @classmethod
    def of(cls, site: Site) -> "Kept":
        """What it holds now."""
        nights = frozenset(night.night for night in site.nights())
        return cls(site.outs(), folder_digest(site.root / "data" / "raw"), versions(site), nights)


def _rows(database: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        return list(connection.execute(query))


def versions(site: Site) -> dict[tuple[str, int], str]:
    """Every registered version of a model, and the key of its bundle."""
    query = (
        "SELECT v.name, v.version, t.value FROM model_versions v JOIN model_version_tags t "
        f"ON t.name = v.name AND t.version = v.version WHERE t.key = '{KEY_TAG}' "
        "AND v.current_stage != 'Deleted_Internal'"
    )
    found = _rows(site.root / ".nightloom" / "mlflow.db", query)
    return {(name, int(number)): key for name, number, key in found}


def open_records(site: Site) -> Iterator[str]:
    """Every night, stage and run that says that it runs, while nothing does."""
    for night in site.nights():
        if night.verdict is None:
            yield f"the file of night {night.night} has no verdict"
        yield from (
            f"stage {stage.name} of night {night.night} is running"
            for stage in night.stages
            if stage.state == "running"
        )
    state = site.root / ".nightloom"
    query = (  # the ledger's is open as long as there are decisions
        "SELECT r.name FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id WHERE "
        f"r.status = 'RUNNING' AND r.lifecycle_stage = 'active' AND e.name != '{LEDGER}'"
    )
    yield from (f"MLflow run {name} is RUNNING" for (name,) in _rows(state / "mlflow.db", query))
    prefect = state / "prefect" / "prefect.db"
    for table in ("flow_run", "task_run"):
        query = f"SELECT name, state_type FROM {table} WHERE state_type IN {_OPEN_STATES}"
        yield from (f"Prefect's {table} {name} is {kind}" for name, kind in _rows(prefect, query))
    query = (
        "SELECT name, state_name FROM flow_run WHERE state_type = 'SCHEDULED' AND NOT "
        "auto_scheduled AND expected_start_time < datetime('now', '-60 seconds')"
    )
    yield from (f"Prefect's run {name} waits: {kind}" for name, kind in _rows(prefect, query))


def _told(site: Site) -> Counter[tuple[str, str]]:
    path = site.root / ".nightloom" / "told.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter((event, night) for event, _, night in (line.partition(" ") for line in lines))


def not_told(site: Site, before: Kept) -> Iterator[str]:
    """Every ending since then that the channel was not told once."""
    told = _told(site)
    for night in site.nights():
        if night.night in before.nights:
            continue
        times = told[(str(night.verdict), night.night)]
        if times != 1:
            yield f"night {night.night}, {night.verdict}, was told {times} times"
        others = {event for event, name in told if name == night.night} - {night.verdict}
        if others:
            yield f"night {night.night}, {night.verdict}, was told as {sorted(others)} too"


def silently_wrong(site: Site, before: Kept) -> Iterator[str]:
    """What is another thing than before though nothing that makes it is, or is there twice."""
    for name, (locked, found) in site.outs().items():
        if locked != before.outs[name][0]:
            yield f"dvc.lock has another {name} than an undisturbed night"
        if found != before.outs[name][1]:
            yield f"{name} holds other bytes than an undisturbed night's"
    if folder_digest(site.root / "data" / "raw") != before.rows:
        yield "the rows that were taken in are others"
    now = versions(site)
    for (model, number), key in before.versions.items():
        if now.get((model, number)) != key:
            yield f"{model} version {number} is lost"
    for (model, _), count in Counter((name, key) for (name, _), key in now.items()).items():
        if count > 1:
            yield f"{count} versions of {model} are of one bundle"
    stores = Stores(f"sqlite:///{site.root}/.nightloom/mlflow.db", site.root / ".nightloom")
    yield from audit(Ledger(stores, Registry(stores))).faults


def problems(site: Site, before: Kept) -> list[Problem]:
    """All that does not hold."""
    orphans = site.orphans()  # first: what still ends may still write
    return [
        *(Problem(WRONG, text) for text in silently_wrong(site, before)),
        *(Problem(ORPHAN, text) for text in orphans),
        *(Problem(OPEN, text) for text in open_records(site)),
        *(Problem(UNTOLD, text) for text in not_told(site, before)),
    ]
