"""What `nightloom doctor` says of what is kept: servers, runs, databases, models, backups."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from flows.cli.night_checks import Finding
from tasks.stage.errors import NightloomError

_BACKUP_DAYS = 30.0
_AHEAD_SECONDS = 300.0  # by which clocks of file systems differ at most


def services(checkout: Path) -> Finding:
    """Look whether the servers that are said to be up answer."""
    from flows.servers import Services
    from tasks.services.loopback import answers

    found = Services.read(checkout)
    if found is None:
        return Finding("none is up")
    pages = {"Prefect": f"{found.prefect_api}/health", "MLflow": f"{found.mlflow}/health"}
    dead = [name for name, page in pages.items() if not answers(page)]
    if dead:
        return Finding(
            f"{' and '.join(dead)} of process {found.pid} gives no answer",
            "nightloom down, then nightloom up; .nightloom/logs/ says why",
        )
    return Finding(f"Prefect and MLflow answer, kept by process {found.pid}")


def abandoned(checkout: Path) -> Finding:
    """Look for nights and runs in MLflow that say they run while no process runs them."""
    from flows.run_state import read_night
    from flows.workspace import STATE, holders

    running = set(holders(checkout).values())
    open_nights = [
        night.night
        for path in sorted((checkout / STATE / "nights").glob("[!.]*.json"))
        if (night := read_night(path)).verdict is None and night.pid not in running
    ]
    runs = 0 if running else _open_runs(checkout / STATE / "mlflow.db")
    if not open_nights and not runs:
        return Finding("no night and no run is left open")
    told = [f"the night {name} has no verdict" for name in open_nights]
    told += [f"{runs} runs in MLflow say that they run"] if runs else []
    return Finding(
        f"{'; '.join(told)}, and no process runs them",
        "nightloom run: it goes on from where the last night stopped",
    )


def _open_runs(database: Path) -> int:
    """Return how many runs of nights MLflow has open; none where it can't say."""
    from tasks.services.stores import EXPERIMENT

    query = (
        "SELECT count(*) FROM runs JOIN experiments USING (experiment_id) "
        "WHERE name = ? AND status = 'RUNNING' AND runs.lifecycle_stage = 'active'"
    )
    try:
        with closing(_reading(database)) as connection:
            return int(connection.execute(query, (EXPERIMENT,)).fetchone()[0])
    except sqlite3.Error:
        return 0  # `databases` tells it


def databases(checkout: Path) -> Finding:
    """Look whether each database of sqlite can be written, and is whole."""
    from flows.workspace import STATE

    state = checkout / STATE
    found = [path for path in (state / "mlflow.db", state / "prefect" / "prefect.db")
             if path.exists()]  # fmt: skip
    for path in found:
        try:
            with closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as connection:
                said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            return Finding(
                f"{path}: {error}",
                "let this user write it; where another process holds it, wait for that or end it",
            )
        if said != "ok":
            return Finding(
                f"{path} is damaged: {said}",
                "nightloom down, then restore a backup into a new clone: `nightloom restore`",
            )
    return Finding(f"{len(found)} are whole and can be written" if found else "none yet")


def _reading(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)


def model_store(checkout: Path) -> Finding:
    """Look whether each weight of the model store has the SHA-256 that a night noted down."""
    wrong, count = [], 0
    seen: set[str] = set()
    for store, manifest in _manifests(checkout):
        if manifest.digest in seen:
            continue
        seen.add(manifest.digest)
        odd = _odd_files(store / manifest.digest, manifest.files)
        wrong += [f"{manifest.name}: {name}" for name in odd]
        count += 1
    if wrong:
        return Finding(
            f"missing or changed: {', '.join(wrong[:5])}",
            "move the model's folder out of .nightloom/models, and keep it; `nightloom run` "
            "resolves the model again",
        )
    return Finding(f"{count} models, as they were when a night took them")


class _Model(BaseModel):
    """What `tasks.models.store` notes down of a model: its folder, and each file's SHA-256."""

    name: str
    digest: str
    files: dict[str, str]


def _manifests(checkout: Path) -> Iterator[tuple[Path, _Model]]:
    """Yield the store and the manifest of each model that a workspace names."""
    from flows.intakes import all_workspaces

    for workspace in all_workspaces(checkout):
        paths = workspace.paths()
        for name in paths.frozen[1:]:
            path = workspace.path / name
            content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
            if content is not None:
                yield checkout / paths.model_store, _Model.model_validate(content)


def _odd_files(folder: Path, files: dict[str, str]) -> list[str]:
    from tasks.stage.outputs import file_sha256

    return [
        name
        for name, digest in sorted(files.items())
        if not (folder / name).exists() or file_sha256(folder / name) != digest
    ]


def backups(checkout: Path) -> Finding:
    """Look how old the last backup is, and whether it is still there."""
    from flows.backup import last_backup

    last = last_backup(checkout)
    if last is None:
        return Finding("none was made here; `nightloom backup --to FOLDER` makes one")
    days = (datetime.now(UTC) - last.time).total_seconds() / 86_400
    found = f"the last one is {days:.0f} days old, in {last.place}"
    if not Path(last.place).exists():
        return Finding(f"{found}, which is not there", "nightloom backup --to a folder that stays")
    if days > _BACKUP_DAYS:
        return Finding(
            found, f"nightloom backup --to a new folder; at most {_BACKUP_DAYS:.0f} days"
        )
    return Finding(found)


def clock(checkout: Path) -> Finding:
    """Look whether the clock is behind what nights have written, and in which zone it is."""
    from flows.workspace import STATE

    now = time.time()
    times = [path.stat().st_mtime for path in (checkout / STATE / "nights").glob("[!.]*.json")]
    ahead = max(times, default=now) - now
    zone = datetime.now().astimezone()
    found = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, zone {zone.tzname()} ({zone:%z})"
    if ahead > _AHEAD_SECONDS:
        return Finding(
            f"{found}; the last night wrote {ahead / 3600:.1f} h later than that",
            "set the clock (timedatectl set-ntp true): nights are sorted and kept by time",
        )
    return Finding(found)


LOOKS = {
    "services": services,
    "abandoned runs": abandoned,
    "databases": databases,
    "model store": model_store,
    "backups": backups,
    "clock": clock,
}


def look_at_stores(checkout: Path) -> Iterator[tuple[str, Finding]]:
    """Yield what each check finds; one that an error ends says so."""
    for name, look in LOOKS.items():
        try:
            yield name, look(checkout)
        except NightloomError as error:
            yield name, Finding(error.message, error.remedy)
