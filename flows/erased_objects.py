"""DVC's cache and remote without what held a row: found by what was made of what.

Each entry of DVC's run cache, and each stage of a `dvc.lock`, names by hash what a stage read and
what it wrote. So what derives from a file that held the row is known, however old, and only that
goes: the next night makes again what it needs.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.graph import cache_folder, parse_lock, remove_from_remote
from flows.workspace import Workspace
from tasks.services.traces import Traces

_DIRECTORY = ".dir"


@dataclass(frozen=True)
class DvcRun:
    """One run of a stage: the hashes of what it read and wrote, and the file of DVC's that says so.

    `file` is None where that is a `dvc.lock`, which holds the hashes of the last run.
    """

    read: frozenset[str]
    written: frozenset[str]
    file: Path | None


def forget_objects(
    workspaces: Collection[Workspace], seeds: set[str], kept: set[str], traces: Traces
) -> int:
    """Delete what derives from files with the MD5s `seeds` from cache, run cache and remote.

    Also what else holds one of the texts. What is `kept` stays. Return how many objects went.
    """
    checkout = next(iter(workspaces)).checkout
    cache = cache_folder(checkout)
    locks = [workspace.path / "dvc.lock" for workspace in workspaces]
    runs = [*cached_runs(cache.parents[1] / "runs"), *_locked_runs(locks)]
    made = _derived(cache, runs, seeds)
    objects = (seeds | with_files(cache, made)) - kept
    for path in sorted(path for path in cache.rglob("*") if path.is_file()):
        oid = path.parent.name + path.name
        if oid not in objects | kept and traces.in_file(path, ids=False):
            objects.add(oid)
    gone = [path for oid in sorted(objects) if (path := object_place(cache, oid)).exists()]
    for path in gone:
        path.unlink()
    for run in runs:
        if run.file is not None and run.read & (made | seeds):
            run.file.unlink()
    return len(gone) + remove_from_remote(checkout, sorted(objects))


def raw_objects(workspaces: Iterable[Workspace]) -> set[str]:
    """Return the hashes of the raw folders as DVC tracks them now, and of their files."""
    found: set[str] = set()
    for workspace in workspaces:
        tracked = workspace.path / f"{workspace.paths().raw}.dvc"
        if tracked.exists():
            outs = parse_lock(tracked.read_text(encoding="utf-8"))["outs"]
            found |= {out["md5"] for out in outs}
    cache = cache_folder(next(iter(workspaces)).checkout)
    return found | with_files(cache, found)


def _derived(cache: Path, runs: Collection[DvcRun], seeds: set[str]) -> set[str]:
    """Return the hashes of all that was made of files with these MD5s, folder or file."""
    folders = {path.parent.name + path.name: path for path in cache.rglob(f"*{_DIRECTORY}")}
    made = {oid for oid, path in folders.items() if _files(path) & seeds}
    while True:
        more = {oid for run in runs if run.read & (made | seeds) for oid in run.written} - made
        if not more:
            return made
        made |= more


def with_files(cache: Path, oids: set[str]) -> set[str]:
    """Return the hashes and, of folders, those of their files."""
    paths = [object_place(cache, oid) for oid in oids if oid.endswith(_DIRECTORY)]
    return oids.union(*(_files(path) for path in paths if path.exists()))


def object_place(cache: Path, oid: str) -> Path:
    """Return where a cache holds an object, whether it does or not."""
    return cache / oid[:2] / oid[2:]


def _files(folder: Path) -> set[str]:
    return {str(item["md5"]) for item in json.loads(folder.read_bytes())}


def cached_runs(folder: Path) -> Iterator[DvcRun]:
    """Yield every run that a run cache holds."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield _run(parse_lock(path.read_text(encoding="utf-8")), path)


def _locked_runs(locks: Iterable[Path]) -> Iterator[DvcRun]:
    for path in locks:
        if path.exists():
            content = parse_lock(path.read_text(encoding="utf-8")) or {}
            for stage in content.get("stages", {}).values():
                yield _run(stage, None)


def _run(stage: dict[str, Any], file: Path | None) -> DvcRun:
    read, written = (
        frozenset(str(item["md5"]) for item in stage.get(name, []) if "md5" in item)
        for name in ("deps", "outs")
    )
    return DvcRun(read, written, file)
