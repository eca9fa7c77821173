"""A checkout's state in a folder of its own: written whole, checked, and put into a clone."""

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flows.database_dumps import dump_databases, load_databases
from flows.dvc_settings import keep_site_cache
from flows.environment import find_stores, site_cache
from flows.erasing import came_back, list_file, reapply
from flows.graph import cache_folder
from flows.intakes import all_workspaces, copied_workspaces, no_nights
from flows.promoter import deciding, make_promoter
from flows.workspace import STATE, Workspace
from tasks.ingestion.erased_rows import ErasedRows
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import MANIFEST, seal, verified, write_atomically
from tasks.stage.params import read_yaml

_ABOUT = "backup.json"
_FILES = "checkout"  # what is copied back as it lies
_DUMPS = "databases"  # what PostgreSQL's own programs wrote
LAST_BACKUP = "last-backup.json"
_SQLITE = b"SQLite format 3\x00"
_PASSING = (
    "-wal", "-shm", "-journal", "night.lock", ".lock.pid", "promotion.lock", "promotion.next",
)  # fmt: skip
# Made again by themselves, of this machine alone, or of a process that lives.
_LEFT_OUT = {"private", "logs", "tmp", "downloads", "services.json", "keeper.json", LAST_BACKUP}
_NOT_OF_A_WORKSPACE = {"tasks", "models", "scratch"}  # the checkout has them, or made again
# Beside the state: what git may not hold, and says what the data are.
_OF_THE_CHECKOUT = ("params", "dvc.lock", "data", ".dvc/config", ".dvc/config.local")


class BackupNote(BaseModel):
    """What a backup is of: `place` is where it was written, `left` what others must save."""

    model_config = ConfigDict(extra="ignore")

    time: datetime
    place: str
    release: str
    files: int
    left: list[str]


def last_backup(checkout: Path) -> BackupNote | None:
    """Return the note of the last backup of a checkout, None if there was none."""
    path = checkout / STATE / LAST_BACKUP
    if not path.exists():
        return None
    return BackupNote.model_validate_json(path.read_text(encoding="utf-8"))


def write_backup(checkout: Path, target: Path) -> BackupNote:
    """Write stores, artifacts, models, data and params into a new folder, whole or not at all.

    Databases are copied by their own means, while servers may be up.

    Raises:
        ConfigError: the folder is there already, or a night runs, which changes what is copied.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"{target} is there already; expected a new or empty folder, since a backup that is "
            "written over may be the only good one",
            "name another folder, such as one with today's date",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        with no_nights([*all_workspaces(checkout), *copied_workspaces(checkout)]):
            for path in _saved(checkout):
                _copy(path, partial / _FILES / path.relative_to(checkout))
            left = dump_databases(checkout, partial / _DUMPS)
        files = sum(path.is_file() for path in partial.rglob("*"))
        note = BackupNote(
            time=datetime.now(UTC),
            place=str(target),
            release=version("nightloom"),
            files=files,
            left=left,
        )
        write_atomically(partial / _ABOUT, note.model_dump_json(indent=1) + "\n")
        seal(partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_atomically(checkout / STATE / LAST_BACKUP, note.model_dump_json(indent=1) + "\n")
    return note


def _saved(checkout: Path) -> Iterator[Path]:
    """Yield every file of a checkout that a backup holds."""
    state, cache = checkout / STATE, cache_folder(checkout)
    roots = [
        *(path for path in sorted(state.glob("*")) if path.name not in _LEFT_OUT),
        *(checkout / name for name in _OF_THE_CHECKOUT),
        *([cache.parents[1]] if cache.is_relative_to(checkout) else []),
    ]
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            inside = path.relative_to(checkout).parts
            of_workspace = inside[:2] == (STATE, "workspaces") and bool(
                set(inside[3:5]) & _NOT_OF_A_WORKSPACE
            )
            scratch = inside[:2] == ("data", "scratch")
            passing = path.name.endswith(_PASSING) and path.is_relative_to(state)
            if path.is_file() and not path.is_symlink() and not of_workspace | scratch | passing:
                yield path


def _copy(path: Path, target: Path) -> None:
    """Copy a file; a database of sqlite as one that nobody writes to meanwhile."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as stream:
        is_database = stream.read(len(_SQLITE)) == _SQLITE
    if is_database:
        copy_database(path, target)
    else:
        shutil.copy2(path, target)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database by sqlite's backup API: whole, whoever writes to it."""
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)
    target.chmod(0o600)


def read_backup(source: Path) -> BackupNote:
    """Return what a backup is of, once each of its files was checked against its SHA-256.

    Raises:
        DataError: it is no backup, or a file is missing, added or changed.
    """
    about, manifest = source / _ABOUT, source / MANIFEST
    if not about.exists() or not manifest.exists():
        raise DataError(
            f"{source} is no backup; expected {_ABOUT} and {MANIFEST}, which are written last",
            "name a folder that `nightloom backup --to` wrote",
        )
    verified(
        source, what="the backup",
        remedy="restore another backup: this one would bring back something else than was saved",
    )  # fmt: skip
    return BackupNote.model_validate_json(about.read_text(encoding="utf-8"))


def restore(checkout: Path, source: Path, erased: Path | None) -> tuple[BackupNote, int]:
    """Put a backup into a clone that has no stores; return its note and how many rows were erased.

    What was erased since the backup is erased again before anything else runs: rows of the lists
    that this clone has, and of the file `erased`.

    Raises:
        ConfigError: there are stores here already, or a server can't take its database back.
        DataError: the backup is not whole.
    """
    note = read_backup(source)
    _check_empty(checkout)
    known = ErasedRows.read(list_file(checkout))
    if erased is not None:
        known = known.joined(ErasedRows.read(erased))
    saved = source / _FILES
    for path in sorted(saved.rglob("*")):
        if path.is_file():
            target = checkout / path.relative_to(saved)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copy2(path, target)
    keep_site_cache(checkout, site_cache(checkout))  # the saved settings name that of the saved one
    load_databases(checkout, source / _DUMPS)
    known.joined(ErasedRows.read(list_file(checkout))).write(list_file(checkout))
    find_stores(checkout)  # whose locations follow to where the checkout is now
    _bring_back_data(checkout)
    return note, sum(_erase_again(workspace) for workspace in all_workspaces(checkout))


def _check_empty(checkout: Path) -> None:
    state = checkout / STATE
    there = [name for name in ("mlflow.db", "artifacts", "nights") if (state / name).exists()]
    if there:
        raise ConfigError(
            f"{state} holds {', '.join(there)}; expected a clone without stores, because a restore "
            "would mix two histories",
            f"restore into a new clone, or move {state} elsewhere and keep it",
        )


def _bring_back_data(checkout: Path) -> None:
    """Let DVC put what `dvc.lock` names into place from the cache that was restored.

    Stages that no night in the checkout itself has finished have nothing there.
    """
    lock = checkout / "dvc.lock"
    if not lock.exists():
        return
    stages = sorted(read_yaml(lock)["stages"])
    command = [sys.executable, "-m", "dvc", "checkout", "--force", *stages]
    child = run_child(command, checkout)
    if child.code != 0:
        raise ConfigError(
            f"`dvc checkout` failed in {checkout}:\n{child.last_lines}",
            "`dvc pull` fetches what the remote holds; then `nightloom run`",
        )


def _erase_again(workspace: Workspace) -> int:
    """Erase from a workspace what a list names; return how many rows that were."""
    promoter = make_promoter(workspace.checkout)
    if not came_back(promoter, workspace):
        return 0
    with deciding(workspace.checkout) as promoter:
        return len(reapply(promoter, workspace).rows)
