"""The stores' schemas brought up to what is installed, each after a copy of its database."""

import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.backup import copy_database
from flows.mlflow_store import own_store
from flows.shutdown import Keeper
from flows.workspace import STATE, holders
from tasks.services.processes import child_environment, run_child
from tasks.stage.errors import ConfigError


@dataclass(frozen=True)
class Upgraded:
    """One store's schema before and after; `copy` is what lay there before, None if unchanged."""

    store: str
    before: str
    after: str
    copy: Path | None


def upgrade_stores(checkout: Path) -> list[Upgraded]:
    """Migrate the schemas of a checkout's own MLflow and Prefect stores.

    Raises:
        ConfigError: servers or a night use them, or a migration failed: its copy is then named.
    """
    _check_unused(checkout)
    state = checkout / STATE
    mlflow, prefect = state / "mlflow.db", _prefect_home(checkout) / "prefect.db"
    commands = {
        mlflow: ("mlflow", ["mlflow", "db", "upgrade", f"sqlite:///{mlflow}"]),
        prefect: ("prefect", ["prefect", "server", "database", "upgrade", "-y"]),
    }
    found = [
        _upgrade(checkout, name, path, command)
        for path, (name, command) in commands.items()
        if path.exists()
    ]
    own_store(checkout)  # whose locations can be read now
    return found


def schema_revision(database: Path) -> str:
    """Return the revision of a sqlite database's schema, as alembic notes it; empty if none."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return ""
    return str(row[0]) if row else ""


def _upgrade(checkout: Path, name: str, database: Path, command: list[str]) -> Upgraded:
    before = schema_revision(database)
    kept = checkout / STATE / "before-upgrade"
    kept.mkdir(mode=0o700, exist_ok=True)
    copy = kept / f"{name}-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.db"
    copy_database(database, copy)
    environment = child_environment() | {"PREFECT_HOME": str(_prefect_home(checkout))}
    environment.pop("PREFECT_API_URL", None)
    child = run_child([sys.executable, "-m", *command], checkout, environment=environment)
    if child.code != 0:
        raise ConfigError(
            f"{name}'s schema could not be upgraded from {before or 'none'}:\n{child.last_lines}",
            f"{copy} is the database as it was: put it in the place of {database} to go on with "
            "the release that wrote it",
        )
    after = schema_revision(database)
    if after == before:
        copy.unlink()
    return Upgraded(name, before, after, None if after == before else copy)


def _prefect_home(checkout: Path) -> Path:
    return Path(os.environ.get("PREFECT_HOME", str(checkout / STATE / "prefect")))


def _check_unused(checkout: Path) -> None:
    """Check that nothing writes to the stores.

    Raises:
        ConfigError: servers are up, or a night runs.
    """
    keeper = Keeper.last(checkout)
    if keeper is not None and keeper.is_kept:
        raise ConfigError(
            f"the servers are up, kept by process {keeper.pid}; expected nothing to use the stores",
            "nightloom down, then upgrade again",
        )
    running = holders(checkout)
    if running:
        raise ConfigError(
            f"a night runs: process {next(iter(running.values()))}; expected nothing to use the "
            "stores",
            "wait for it (`nightloom status` shows it), then upgrade again",
        )
