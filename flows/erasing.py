"""Rows erased from everything that a checkout keeps; versions that held them are named."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from flows.environment import find_stores
from flows.erased_objects import forget_objects, raw_objects
from flows.intakes import all_workspaces, data_statement, no_nights, raw_folder, track_data
from flows.promoter import Promoter
from flows.servers import Services
from flows.workspace import STATE, Workspace
from tasks.ingestion.erasure import (
    ERASED_FILE,
    ErasedRow,
    ErasedRows,
    FoundRow,
    Told,
    check_named,
    erase_from,
    erased_file,
    erased_row,
    find_erased,
    find_rows,
    held_objects,
    told_by,
    without_words,
)
from tasks.ingestion.intake_files import intake_folders
from tasks.registry.erased import ERASURE, find_holders, record_erased
from tasks.registry.ledger import Ledger
from tasks.registry.promote import check_signature
from tasks.registry.versions import MODELS, Version
from tasks.services.stores import LEDGER, Stores, local_path
from tasks.services.traces import Traces, wipe_postgresql, wipe_sqlite
from tasks.stage.outputs import file_sha256, output_folders, write_atomically
from tasks.stage.params import read_yaml

_LIST = "list"  # names the list of erased rows in an entry's evidence
_PROFILE = "profile.json"
_SQLITE = b"SQLite format 3\x00"
_SIDE_FILES = ("-wal", "-shm", "-journal")
# An entry of the ledger that is changed breaks its chain; it holds ids and reasons, no row.
_LEDGER = {
    "params": "run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id IN "
    f"(SELECT experiment_id FROM experiments WHERE name = '{LEDGER}'))"
}
_NOTHING = Traces(frozenset(), frozenset())
_ELSEWHERE = ("models", "workspaces", "artifacts", "private")


@dataclass(frozen=True)
class Erasure:
    """What an erasure did: the rows, the versions that held them, and what went.

    `others` are rows that stay and say some of the same. `left` is what somebody else must do.
    """

    id: str
    rows: tuple[ErasedRow, ...]
    versions: tuple[Version, ...]
    removed: int
    overwritten: int
    others: tuple[str, ...]
    left: tuple[str, ...]


def list_file(checkout: Path) -> Path:
    """Return where a checkout lists what was erased, besides each raw folder and the ledger."""
    return checkout / STATE / ERASED_FILE


def erase(
    promoter: Promoter, checkout: Path, names: Sequence[str], *, reason: str, by: str
) -> Erasure:
    """Erase rows everywhere. Call it while holding the promoter's lock.

    Raises:
        ConfigError: an id is in no intake, a night runs, or a store can't be wiped: said again, it
            goes on.
    """
    check_signature(by, reason)
    workspaces = all_workspaces(checkout)
    with no_nights(workspaces):
        _forget_pending(checkout, _NOTHING)
        known = known_list(promoter.ledger, workspaces[0], promoter.downloads)
        found = [row for x in workspaces for row in find_rows(raw_folder(x), names)]
        check_named(names, found, known)
        return _erase(promoter, workspaces, found, known, reason=reason, by=by)


def came_back(promoter: Promoter, workspace: Workspace) -> bool:
    """Return whether a workspace holds rows that were erased; a night begins with asking.

    The list is the union of those of the workspace, the checkout and the ledger, and each gets it.
    """
    known = known_list(promoter.ledger, workspace, promoter.downloads)
    if not known.rows:
        return False
    _forget_pending(workspace.checkout, _NOTHING)
    _write_lists(known, [workspace])
    return bool(find_erased(raw_folder(workspace), known))


def reapply(promoter: Promoter, workspace: Workspace) -> Erasure:
    """Erase again what came back into a workspace. Call it while holding the promoter's lock."""
    known = known_list(promoter.ledger, workspace, promoter.downloads)
    found = find_erased(raw_folder(workspace), known)
    earlier = known.rows[-1]
    reason = f"a backup brought back what was erased: {earlier.reason}"
    return _erase(promoter, [workspace], found, known, reason=reason, by=earlier.by)


def known_list(ledger: Ledger, workspace: Workspace, downloads: Path) -> ErasedRows:
    """Return what was erased so far, by every list that there is."""
    own = ErasedRows.read(list_file(workspace.checkout))
    kept = [
        path
        for link in ledger.links()
        if _LIST in link.entry.evidence
        and (path := ledger.kept_file(f"{link.entry.evidence[_LIST]}.jsonl", downloads))
    ]
    in_data = ErasedRows.read(erased_file(raw_folder(workspace)))
    return own.joined(in_data, *(ErasedRows.read(path) for path in kept))


def _erase(
    promoter: Promoter,
    workspaces: Sequence[Workspace],
    found: Sequence[FoundRow],
    known: ErasedRows,
    *,
    reason: str,
    by: str,
) -> Erasure:
    """Remember the rows, then let them go from the stores, the files beside, the data and DVC.

    They are remembered first: where this is cut short, the next night begins with the rest.
    """
    checkout, ledger = workspaces[0].checkout, promoter.ledger
    told = told_by(found, [raw_folder(x) for x in workspaces], _own_words(checkout))
    versions = find_holders(ledger.registry, told.traces.ids, told.traces, promoter.downloads)
    erasure, now, salt = uuid4().hex[:12], datetime.now(UTC), known.salt
    distinct = {(x.intake.name, x.kind, x.line.number): x for x in found}.values()
    rows = [
        erased_row(x, erasure=erasure, salt=salt, reason=reason, by=by, now=now) for x in distinct
    ]
    known = known.joined(ErasedRows(tuple(rows)))
    _write_lists(known, workspaces)
    _tell_ledger(promoter, erasure, rows, versions, list_file(checkout), reason, by)
    stores = find_stores(checkout)
    left = _wipe_stores(checkout, stores, told.traces)
    removed = _clean_artifacts(stores, ledger, told.traces)
    overwritten, more = _clean_state(checkout, told.traces)
    removed += more
    for workspace in workspaces:
        if _own(workspace, found):
            removed += _remove_outs(workspace, told)
        removed += _remove_files(workspace, told.traces)
    # The rows themselves last: where this is cut short, they can still be looked for.
    removed += _erase_raw(workspaces, found, told, known)
    kept = tuple(ledger.registry.version(x.model, x.number) for x in versions)
    return Erasure(erasure, tuple(rows), kept, removed, overwritten, told.others, tuple(left))


def _erase_raw(
    workspaces: Sequence[Workspace], found: Sequence[FoundRow], told: Told, known: ErasedRows
) -> int:
    """Take the rows out of the intakes, then out of DVC; return how many objects went."""
    checkout, seeds = workspaces[0].checkout, set[str]()
    for workspace in workspaces:
        seeds |= held_objects(raw_folder(workspace), _own(workspace, found), told)
    write_atomically(_pending_file(checkout), json.dumps(sorted(seeds)))
    for workspace in workspaces:
        erase_from(raw_folder(workspace), _own(workspace, found), told, known)
        track_data(workspace)
    return _forget_pending(checkout, told.traces)


def _own(workspace: Workspace, found: Sequence[FoundRow]) -> list[FoundRow]:
    """Return the rows that lie in a workspace too."""
    names = {folder.name for folder in intake_folders(raw_folder(workspace))}
    return [row for row in found if row.intake.name in names]


def _pending_file(checkout: Path) -> Path:
    """Return where the MD5s stand of files that held a row, until DVC has forgotten them."""
    return checkout / STATE / "erasing.json"


def _forget_pending(checkout: Path, traces: Traces) -> int:
    """Let DVC forget what an erasure, this one or one that was cut short, took out of the data."""
    pending = _pending_file(checkout)
    if not pending.exists():
        return 0
    seeds = set(json.loads(pending.read_text(encoding="utf-8")))
    every = all_workspaces(checkout)
    removed = forget_objects(every, seeds, raw_objects(every), traces)
    pending.unlink()
    return removed


def _own_words(checkout: Path) -> str:
    """Return the code and the params, whose words stand in every log and report."""
    files = (
        path
        for name in ("flows", "tasks", "params")
        for path in sorted((checkout / name).rglob("*"))
        if path.suffix in (".py", ".yaml")
    )
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def _write_lists(known: ErasedRows, workspaces: Sequence[Workspace]) -> None:
    known.write(list_file(workspaces[0].checkout))
    for workspace in workspaces:
        known.write(erased_file(raw_folder(workspace)))


def _tell_ledger(
    promoter: Promoter,
    erasure: str,
    rows: Sequence[ErasedRow],
    versions: Sequence[Version],
    file: Path,
    reason: str,
    by: str,
) -> None:
    """Let the ledger name the erasure, the list and each version that held a row of it."""
    ledger = promoter.ledger
    ledger.keep_file(file)
    names = ", ".join(dict.fromkeys(row.id for row in rows))
    text = f"{len(rows)} rows erased: {names[:300]}: {reason}"
    evidence = {ERASURE: erasure, _LIST: file_sha256(file)}
    ledger.append(data_statement("erased", by, text, evidence))
    policy = promoter.params.erased_champion
    for version in versions:
        record_erased(ledger, version, erasure=erasure, by=by, reason=reason, policy=policy)


def _remove_outs(workspace: Workspace, told: Told) -> int:
    """Delete all that stages made in a workspace, which the next night makes again.

    Of the accepted rows their profile stays: the next intake is compared with it.
    """
    paths = read_yaml(workspace.path / "params" / "paths.yaml")
    stages = read_yaml(workspace.path / "dvc.yaml")["stages"].values()
    made = {str(out).strip("${}") for stage in stages for out in stage["outs"]} | {"scratch"}
    accepted = workspace.path / paths["accepted"]
    profile = accepted / _PROFILE
    text = profile.read_text(encoding="utf-8") if profile.exists() else None
    removed = 0
    for name in sorted(made):
        folder = workspace.path / paths[name]
        if folder.exists():
            removed += sum(path.is_file() for path in folder.rglob("*"))
            shutil.rmtree(folder)
    if text is not None:
        with output_folders(accepted) as (target,):
            (target / _PROFILE).write_text(without_words(text, told.words), encoding="utf-8")
    return removed


def _remove_files(workspace: Workspace, traces: Traces) -> int:
    """Delete what else lies beside the raw folder and holds a row."""
    raw, removed = raw_folder(workspace), 0
    for path in _files(raw.parent, (raw.name,)):
        if traces.in_file(path):
            path.unlink()
            removed += 1
    return removed


def _clean_artifacts(stores: Stores, ledger: Ledger, traces: Traces) -> int:
    """Delete the artifacts of nights that hold a row; versions' own files go with the version."""
    if stores.artifacts is None or not stores.artifacts.exists():
        return 0
    registry = ledger.registry
    held = [local_path(x.source) for model in MODELS for x in registry.versions(model)]
    own = [path.resolve() for path in held if path is not None]
    removed = 0
    for path in _files(stores.artifacts.resolve(), ()):
        in_version = any(path.is_relative_to(folder) for folder in own)
        if not in_version and path.suffix != ".npy" and not _is_list(path) and traces.in_file(path):
            path.unlink()
            removed += 1
    return removed


def _is_list(path: Path) -> bool:
    """Return whether a file is a list of erased rows that the ledger keeps."""
    return path.parent.name == "files" and path.suffix == ".jsonl"


def _clean_state(checkout: Path, traces: Traces) -> tuple[int, int]:
    """Wipe databases and logs in the state's folder; return values overwritten, files removed."""
    state = checkout / STATE
    removed = 0
    for name in ("downloads", "tmp"):
        removed += sum(path.is_file() for path in (state / name).rglob("*"))
        shutil.rmtree(state / name, ignore_errors=True)
    overwritten = 0
    for path in _files(state, _ELSEWHERE):
        if path.name.endswith(_SIDE_FILES) or path == list_file(checkout):
            continue
        with path.open("rb") as stream:
            is_database = stream.read(len(_SQLITE)) == _SQLITE
        overwritten += wipe_sqlite(path, traces, _LEDGER) if is_database else traces.overwrite(path)
    return overwritten, removed


def _wipe_stores(checkout: Path, stores: Stores, traces: Traces) -> list[str]:
    """Wipe MLflow's and Prefect's databases that lie elsewhere; return what others must do."""
    left = []
    uri = stores.tracking_uri
    if uri.startswith("postgresql"):
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
    prefect = os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL", "")
    if prefect.startswith("postgresql"):
        wipe_postgresql(prefect.replace("+asyncpg", "+psycopg"), traces, {})
    elif os.environ.get("PREFECT_API_URL") and Services.read(checkout) is None:
        left.append(
            f"Prefect at {os.environ['PREFECT_API_URL']} is kept by others: its administrator "
            "deletes the logs and artifacts of nights that show the rows"
        )
    return left


def _files(folder: Path, left_out: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a folder, without those of some folders in it."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts[0] not in left_out
        if inside and path.is_file() and not path.is_symlink():
            yield path
