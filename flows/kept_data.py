"""Which objects of DVC's cache are needed, and by whom; the others may go."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.erased_objects import cached_runs, with_files
from flows.graph import cache_folder, found_in_remote, parse_lock
from flows.intakes import all_workspaces, copied_workspaces
from flows.workspace import Workspace
from tasks.services.processes import supervised
from tasks.stage.errors import ConfigError

_GIT_SECONDS = 60.0


@dataclass(frozen=True)
class UnneededData:
    """What nothing needs of DVC's cache: objects, and entries of its run cache that lead to them.

    `needed` says by whom how many objects are.
    """

    objects: tuple[Path, ...]
    runs: tuple[Path, ...]
    needed: Mapping[str, int]

    def only_here(self, checkout: Path) -> int | None:
        """Return how many objects the remote does not hold either, None where there is none.

        Nothing of the remote ever goes: other clones may need it.

        Raises:
            ConfigError: the remote does not answer.
        """
        names = [path.parent.name + path.name for path in self.objects]
        there = found_in_remote(checkout, names)
        return None if there is None else len(set(names) - there)


def unneeded_data(checkout: Path, locks: Mapping[str, Sequence[str]]) -> UnneededData:
    """Return what neither the checkout, a workspace, a branch or tag of git nor `locks` names.

    `locks` are the texts of `dvc.lock` and `.dvc` files, by who needs them: versions and nights.

    Raises:
        ConfigError: the cache lies outside of the checkout.
    """
    cache = cache_folder(checkout)
    if not cache.resolve().is_relative_to(checkout.resolve()):
        raise ConfigError(
            f"DVC's cache is {cache}; expected it in {checkout}: others may use it, and what they "
            "need is not known here",
            "take a cache of this checkout's own (`dvc cache dir`), or make room there by hand",
        )
    workspaces = [*all_workspaces(checkout), *copied_workspaces(checkout)]
    roots: dict[str, Sequence[str]] = {one.name: _locks_of(one) for one in workspaces}
    roots |= {"branches and tags": _committed_locks(checkout), **locks}
    named = {who: with_files(cache, _hashes(texts)) for who, texts in roots.items()}
    kept = set().union(*named.values())
    objects = {
        path.parent.name + path.name: path for path in sorted(cache.glob("??/*")) if path.is_file()
    }
    gone = {oid: path for oid, path in objects.items() if oid not in kept}
    runs = [
        run.file
        for run in cached_runs(cache.parents[1] / "runs")
        if run.file is not None and not run.written <= kept
    ]
    return UnneededData(
        objects=tuple(gone.values()),
        runs=tuple(runs),
        needed={who: len(oids & objects.keys()) for who, oids in named.items()},
    )


def _locks_of(workspace: Workspace) -> list[str]:
    files = [workspace.path / "dvc.lock", workspace.path / f"{workspace.paths().raw}.dvc"]
    return [path.read_text(encoding="utf-8") for path in files if path.exists()]


def _committed_locks(checkout: Path) -> list[str]:
    """Return the locks that branches and tags of git hold; none where git is not used."""
    files = ["dvc.lock", f"{Workspace(checkout, checkout, ()).paths().raw}.dvc"]
    heads = _git(checkout, "for-each-ref", "--format=%(objectname)").split()
    shown = [_git(checkout, "show", f"{head}:./{file}") for head in set(heads) for file in files]
    return [text for text in shown if text]


def _git(checkout: Path, *arguments: str) -> str:
    """Return what git prints, nothing where it fails: a folder without git, a file not in it."""
    done = subprocess.run(
        supervised(["git", *arguments]), cwd=checkout, capture_output=True, text=True, check=False,
        timeout=_GIT_SECONDS,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


def _hashes(texts: Iterable[str]) -> set[str]:
    """Return every MD5 that locks name, of what was read and of what was written."""
    return set().union(*(_md5s(parse_lock(text)) for text in set(texts)))


def _md5s(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {str(value["md5"])} if "md5" in value else set()
        return own.union(*(_md5s(item) for item in value.values()))
    return set().union(*(_md5s(item) for item in value)) if isinstance(value, list) else set()
