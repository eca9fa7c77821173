"""The MLflow store that a checkout keeps in `.nightloom`; it follows the checkout.

MLflow writes absolute artifact locations into its database and has no call that changes them
(https://github.com/mlflow/mlflow/issues/3144). In a checkout that was copied or moved they name
the place it came from: a night would write there, and prune would delete there. So before anything
opens the store, each location in it is brought to where the checkout is now, or refused.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from flows.workspace import STATE
from tasks.registry.versions import MODELS, model_name, models_folder
from tasks.services.stores import EXPERIMENT, LEDGER, call_with_retries, local_path
from tasks.stage.errors import ConfigError

_ARTIFACTS = "artifacts"
_FOLDERS = ("runs", "model_versions")  # whose locations are folders with files of their own
_LOCK_SECONDS = 5.0  # after which `patiently` says so, and asks again
_OURS = f"experiments.name IN ('{EXPERIMENT}', '{LEDGER}')"
# What a night made lies in its own run, as `Version.key` has it.
_MADE_BY_A_NIGHT = " OR ".join(
    f"(name = '{model_name(model)}' AND source LIKE '%/' || run_id || "
    f"'/artifacts/{models_folder(model)}')"
    for model in MODELS
)


@dataclass(frozen=True)
class OwnStore:
    """The sqlite file and the artifacts' folder of a checkout."""

    database: Path
    artifacts: Path

    @property
    def uri(self) -> str:
        """Return the address that MLflow is given."""
        return f"sqlite:///{self.database}"


@dataclass(frozen=True)
class _Column:
    """Where MLflow keeps locations; `ours` says of which rows that Nightloom made them."""

    table: str
    name: str
    source: str
    ours: str
    what: str

    @property
    def query(self) -> str:
        """Return the query for rows with a location on this machine that is not below `:uri`."""
        column = f"{self.table}.{self.name}"
        return (
            f"SELECT {self.table}.rowid, {column}, {self.ours}, {self.what} FROM {self.source} "
            f"WHERE ({column} GLOB 'file:*' OR {column} GLOB '/*') AND {column} != :uri "
            f"AND substr({column}, 1, length(:uri) + 1) != :uri || '/'"
        )


_OF_EXPERIMENTS = "JOIN experiments USING (experiment_id)"
_TRACES = f"trace_tags JOIN trace_info USING (request_id) {_OF_EXPERIMENTS}"
_VERSION = "'version ' || version || ' of ' || name"
_COLUMNS = (
    _Column("experiments", "artifact_location", "experiments", _OURS, "'experiment ' || name"),
    _Column("runs", "artifact_uri", f"runs {_OF_EXPERIMENTS}", _OURS, "'run ' || run_uuid"),
    _Column(
        "logged_models", "artifact_location", f"logged_models {_OF_EXPERIMENTS}", _OURS,
        "'model ' || model_id",
    ),
    _Column("model_versions", "source", "model_versions", _MADE_BY_A_NIGHT, _VERSION),
    _Column("model_versions", "storage_location", "model_versions", _MADE_BY_A_NIGHT, _VERSION),
    _Column("trace_tags", "value", _TRACES, f"key = 'mlflow.artifactLocation' AND {_OURS}",
            "'trace ' || request_id"),
)  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """A row of a column, and the local path that it holds."""

    column: _Column
    row: int
    location: str
    ours: bool
    what: str

    @cached_property
    def path(self) -> Path:
        """Return the location as a path, without `..`."""
        path = local_path(self.location)
        assert path is not None  # the query gives no others
        return Path(os.path.normpath(path))


def own_store(checkout: Path) -> OwnStore:
    """Return the store of a checkout, with all of its locations in the checkout.

    Locations at a server or in a bucket stay, and so do those that somebody else made outside of
    every folder that this checkout has been.

    Raises:
        ConfigError: the store writes to another folder of this machine, its artifacts were left
            behind, or its database can't be used.
    """
    state = checkout.resolve() / STATE
    state.mkdir(exist_ok=True)
    store = OwnStore(state / "mlflow.db", state / _ARTIFACTS)
    if store.database.exists():
        call_with_retries(partial(_follow, store, checkout.resolve()), store.uri)
    return store


def _follow(store: OwnStore, checkout: Path) -> None:
    uri = f"{store.database.as_uri()}?mode=rw"
    with closing(
        sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
    ) as connection:
        if not _changes(connection, store, checkout):
            return
        connection.execute("BEGIN IMMEDIATE")
        changes = _changes(connection, store, checkout)  # another process may have made them
        for place, path in changes:
            connection.execute(
                f"UPDATE {place.column.table} SET {place.column.name} = ? WHERE rowid = ?",
                (path.as_uri(), place.row),
            )
        connection.execute("COMMIT")


def _changes(
    connection: sqlite3.Connection, store: OwnStore, checkout: Path
) -> list[tuple[_Place, Path]]:
    """Return every location that is not where it belongs, and where that is.

    Raises:
        ConfigError: one can't be brought here.
    """
    places = _read(connection, store)
    former = {_former_checkout(place.path) for place in places if place.ours}
    homes = {checkout} | {home for home in former if home is not None}
    changes = []
    for place in places:
        path = _path_now(place.path, homes, checkout)
        if path is None and place.ours:
            path = _by_a_link(place.path, store.artifacts)
            if path is None:
                raise _foreign(place, store)
        if path is not None and path != place.path:
            changes.append((place, path))
    _check_files(changes, store)
    return changes


def _check_files(changes: Sequence[tuple[_Place, Path]], store: OwnStore) -> None:
    """Check that the artifacts came along.

    A folder may have been deleted, and most runs have none; but not all are gone by themselves.

    Raises:
        ConfigError: there are versions, and neither of them nor of any night's run is a file here.
    """
    folders = [item for item in changes if item[0].ours and item[0].column.table in _FOLDERS]
    versions = [item for item in folders if item[0].column.table == "model_versions"]
    if versions and not any(path.exists() for _, path in folders):
        raise _left_behind(*versions[0], store)


def _read(connection: sqlite3.Connection, store: OwnStore) -> list[_Place]:
    """Return the locations on this machine that are not plainly in the artifacts' folder."""
    # MLflow makes the first experiment once all tables are there.
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone()
    if known is None or connection.execute("SELECT 1 FROM experiments").fetchone() is None:
        return []
    found = []
    for column in _COLUMNS:
        try:
            rows = connection.execute(column.query, {"uri": store.artifacts.as_uri()}).fetchall()
        except sqlite3.OperationalError as error:
            if "no such" not in str(error):
                raise
            raise _unknown_schema(store, column, error) from error
        found += [_Place(column, row, text, bool(ours), what) for row, text, ours, what in rows]
    return found


def _former_checkout(path: Path) -> Path | None:
    """Return the checkout in whose artifacts' folder a path lies, even if it is gone.

    `/` is none, since all that a machine holds lies below it.
    """
    parts = path.parts
    for end in range(len(parts), 3, -1):
        if parts[end - 2 : end] == (STATE, _ARTIFACTS):
            return Path(*parts[: end - 2])
    return None


def _path_now(path: Path, homes: Iterable[Path], checkout: Path) -> Path | None:
    """Return where a path of one of the homes lies in the checkout, None if in no home.

    A home may be inside of another: the innermost counts.
    """
    around = [home for home in homes if path.is_relative_to(home)]
    if not around:
        return None
    return checkout / path.relative_to(max(around, key=lambda home: len(home.parts)))


def _by_a_link(path: Path, artifacts: Path) -> Path | None:
    """Return the same for a path that leads to the artifacts' folder by a symbolic link."""
    real, folder = path.resolve(), artifacts.resolve()
    return artifacts / real.relative_to(folder) if real.is_relative_to(folder) else None


def _foreign(place: _Place, store: OwnStore) -> ConfigError:
    return ConfigError(
        f"{place.what} in {store.database} keeps its files at {place.location}; expected a place "
        f"below {store.artifacts.as_uri()}, the artifacts' folder of this checkout, or below the "
        f"{STATE}/{_ARTIFACTS} of the one that it was copied or moved from. What lies there may be "
        "another's, and a night would write to it and prune would delete it",
        f"if these are this checkout's own files, move them to {store.artifacts} and leave a "
        "symbolic link to it where they were; if the store is to write there, serve it with "
        "`mlflow server` and name that server in MLFLOW_TRACKING_URI",
    )


def _left_behind(place: _Place, path: Path, store: OwnStore) -> ConfigError:
    return ConfigError(
        f"{store.database} names versions whose files are not here: {place.what} was at "
        f"{place.path}, expected {path}. This checkout was copied or moved without "
        f"{STATE}/{_ARTIFACTS}, so it can neither answer from these versions nor delete them",
        f"copy or move {_former_checkout(place.path)}/{STATE}/{_ARTIFACTS} to {store.artifacts} "
        f"too; or, to begin anew without any version, move {store.database} elsewhere and keep it",
    )


def _unknown_schema(store: OwnStore, column: _Column, error: Exception) -> ConfigError:
    return ConfigError(
        f"{store.database} is no store of this MLflow: {error}; expected the column "
        f"{column.table}.{column.name}, which holds paths that must be those of this checkout",
        "`nightloom upgrade` brings it up to date, and keeps a copy of the file",
    )
