"""Rows erased from everything that a checkout keeps; versions that held them are named."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from flows.environment import find_stores
from flows.erased_objects import forget_objects, raw_objects
from flows.erased_stores import (
    clean_artifacts,
    clean_state,
    files_below,
    forget_served,
    wipe_stores,
)
from flows.intakes import (
    all_workspaces,
    copied_workspaces,
    data_statement,
    no_nights,
    raw_folder,
    track_data,
)
from flows.promoter import Promoter
from flows.workspace import STATE, Workspace
from tasks.ingestion.erased_rows import ERASED_FILE, ErasedRow, ErasedRows, erased_file
from tasks.ingestion.erasure import (
    ErasedText,
    FoundRow,
    check_named,
    erase_from,
    erased_row,
    find_erased,
    find_rows,
    held_objects,
    told_by,
    without_words,
)
from tasks.ingestion.intake_files import intake_folders
from tasks.records.text import id_form
from tasks.registry.erased import ERASURE, find_holders, record_erased
from tasks.registry.ledger import Ledger
from tasks.registry.promote import check_signature
from tasks.registry.versions import Version
from tasks.services.traces import Traces
from tasks.stage.outputs import file_sha256, output_folders, write_atomically
from tasks.stage.params import read_yaml

_LIST = "list"  # names the list of erased rows in an entry's evidence
_PROFILE = "profile.json"
_NOTHING = Traces(frozenset(), frozenset())


@dataclass(frozen=True)
class Erasure:
    """What an erasure did: the rows, the versions that held them, and what went.

    `served` questions of the log are deleted. `others` are rows that stay and say some of the same.
    `left` is what somebody else must do.
    """

    id: str
    rows: tuple[ErasedRow, ...]
    versions: tuple[Version, ...]
    removed: int
    overwritten: int
    served: int
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
    workspaces, names = all_workspaces(checkout), [id_form(name) for name in names]
    with no_nights([*workspaces, *copied_workspaces(checkout)]):
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
    served = forget_served(stores, told.traces)
    left = wipe_stores(checkout, stores, told.traces)
    removed = clean_artifacts(stores, ledger, told.traces)
    # First: their files may be links to those of a workspace, which must not be written over.
    removed += _remove_copies(checkout, found)
    overwritten, more = clean_state(checkout, told.traces, list_file(checkout))
    removed += more
    for workspace in workspaces:
        if _own(workspace, found):
            removed += _remove_outs(workspace, told)
        removed += _remove_files(workspace, told.traces)
    # The rows themselves last: where this is cut short, they can still be looked for.
    removed += _erase_raw(workspaces, found, told, known)
    kept = tuple(ledger.registry.version(x.model, x.number) for x in versions)
    return Erasure(
        erasure, tuple(rows), kept, removed, overwritten, served, told.others, tuple(left)
    )


def _erase_raw(
    workspaces: Sequence[Workspace], found: Sequence[FoundRow], told: ErasedText, known: ErasedRows
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
    made_in = [*every, *copied_workspaces(checkout)]
    removed = forget_objects(made_in, seeds, raw_objects(every), traces)
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


def _remove_outs(workspace: Workspace, told: ErasedText) -> int:
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


def _remove_copies(checkout: Path, found: Sequence[FoundRow]) -> int:
    """Delete the data of deep evaluations and trials that hold a row; return how many files went.

    The next one begins with the rows of a workspace.
    """
    removed = 0
    for copy in copied_workspaces(checkout):
        data = raw_folder(copy).parent
        if _own(copy, found) and data.exists():
            removed += sum(path.is_file() for path in data.rglob("*"))
            shutil.rmtree(data)
    return removed


def _remove_files(workspace: Workspace, traces: Traces) -> int:
    """Delete what else lies beside the raw folder and holds a row."""
    raw, removed = raw_folder(workspace), 0
    for path in files_below(raw.parent, (raw.name,)):
        if traces.in_file(path):
            path.unlink()
            removed += 1
    return removed
