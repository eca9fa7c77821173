"""MLflow, Prefect and the state's folder without what held a row: deleted, or written over."""

import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from flows.mlflow_store import own_store
from flows.servers import Services
from flows.workspace import STATE
from tasks.registry.erased import erased_versions
from tasks.registry.ledger import Ledger
from tasks.registry.versions import MODELS
from tasks.services.databases import PREFECT_DATABASES
from tasks.services.stores import LEDGER, Stores, local_path
from tasks.services.traces import Traces, wipe_postgresql, wipe_sqlite

_SQLITE = b"SQLite format 3\x00"
_SIDE_FILES = ("-wal", "-shm", "-journal")
# An entry of the ledger that is changed breaks its chain; it holds ids and reasons, no row.
_LEDGER = {
    "params": "run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id IN "
    f"(SELECT experiment_id FROM experiments WHERE name = '{LEDGER}'))"
}
_ELSEWHERE = ("models", "workspaces", "artifacts", "private")
_NOTHING = Traces(frozenset(), frozenset())


def forget_served(stores: Stores, traces: Traces) -> int:
    """Delete the served questions that hold a row or that one was made of; return how many.

    They leave the review queue with that.
    """
    # Deferred: MLflow takes seconds to import.
    from tasks.feedback.traces import ServedTraces

    return ServedTraces(stores).delete_where(
        lambda completion, said: completion in traces.ids or traces.in_bytes(said, ids=False)
    )


def forget_answers(stores: Stores, ledger: Ledger) -> int | None:
    """Delete what versions answered after the erasure of a row that they held; return how many.

    None where no version ever held an erased row. What they had answered before was looked through
    then. Now nobody has the row's text any more, so that none of it may be kept or learned from.
    """
    # Deferred: MLflow takes seconds to import.
    from tasks.feedback.traces import ServedTraces

    since = {
        f"{model}-{number}": datetime.fromisoformat(entry.time)
        for model in MODELS
        for number, entry in erased_versions(ledger, model).items()
    }
    return ServedTraces(stores).delete_answers(since) if since else None


def wipe_deleted(checkout: Path, stores: Stores) -> None:
    """Let what was deleted from MLflow's database leave its bytes, too.

    Raises:
        ConfigError: another process holds the database; said again, it goes on.
    """
    uri = stores.tracking_uri
    if uri.startswith("postgres"):
        wipe_postgresql(uri, _NOTHING, {})
    is_file = uri.startswith("sqlite:///")
    path = Path(uri.removeprefix("sqlite:///")) if is_file else own_store(checkout).database
    if path.exists():
        wipe_sqlite(path, _NOTHING, {})


def clean_artifacts(stores: Stores, ledger: Ledger, traces: Traces) -> int:
    """Delete the artifacts of nights that hold a row; versions' own files go with the version."""
    if stores.artifacts is None or not stores.artifacts.exists():
        return 0
    registry = ledger.registry
    held = [local_path(x.source) for model in MODELS for x in registry.versions(model)]
    own = [path.resolve() for path in held if path is not None]
    removed = 0
    for path in files_below(stores.artifacts.resolve(), ()):
        in_version = any(path.is_relative_to(folder) for folder in own)
        if not in_version and path.suffix != ".npy" and not _is_list(path) and traces.in_file(path):
            path.unlink()
            removed += 1
    return removed


def _is_list(path: Path) -> bool:
    """Return whether a file is a list of erased rows that the ledger keeps."""
    return path.parent.name == "files" and path.suffix == ".jsonl"


def clean_state(checkout: Path, traces: Traces, spared: Path) -> tuple[int, int]:
    """Wipe databases and logs in the state's folder; return values overwritten, files removed.

    A packed file that holds a row goes. The file `spared` stays as it is.
    """
    state = checkout / STATE
    removed = 0
    for name in ("downloads", "tmp"):
        removed += sum(path.is_file() for path in (state / name).rglob("*"))
        shutil.rmtree(state / name, ignore_errors=True)
    overwritten = 0
    for path in files_below(state, _ELSEWHERE):
        if path.name.endswith(_SIDE_FILES) or path == spared:
            continue
        with path.open("rb") as stream:
            is_database = stream.read(len(_SQLITE)) == _SQLITE
        if is_database:
            overwritten += wipe_sqlite(path, traces, _LEDGER)
            continue
        overwritten += traces.overwrite(path)
        if traces.in_file(path, ids=False):
            path.unlink()
            removed += 1
    return overwritten, removed


def wipe_stores(checkout: Path, stores: Stores, traces: Traces) -> list[str]:
    """Wipe MLflow's and Prefect's databases that lie elsewhere; return what others must do."""
    left = []
    uri = stores.tracking_uri
    if uri.startswith("postgres"):
        wipe_postgresql(uri, traces, _LEDGER)
    elif uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        if not path.is_relative_to(checkout / STATE):
            wipe_sqlite(path, traces, _LEDGER)
    elif Services.read(checkout) is None:
        left.append(
            f"MLflow at {uri} is kept by others: its administrator deletes the artifacts of nights "
            "that show the rows, overwrites them in its database, and runs VACUUM FULL there"
        )
    if stores.artifacts is None:
        left.append(
            f"the artifacts of {uri} lie elsewhere: delete the reports of nights that held the "
            "rows there, e.g. `mlflow gc` on their deleted runs"
        )
    prefect = next(filter(None, map(os.environ.get, PREFECT_DATABASES)), "")
    if prefect.startswith("postgres"):
        wipe_postgresql(prefect, traces, {})
    elif os.environ.get("PREFECT_API_URL") and Services.read(checkout) is None:
        left.append(
            f"Prefect at {os.environ['PREFECT_API_URL']} is kept by others: its administrator "
            "deletes the logs and artifacts of nights that show the rows"
        )
    return left


def files_below(folder: Path, left_out: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a folder, without those of some folders in it."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts[0] not in left_out
        if inside and path.is_file() and not path.is_symlink():
            yield path
