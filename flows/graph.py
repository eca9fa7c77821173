"""`dvc.yaml` as an ordered list of stages, and what DVC knows about each now."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tasks.orchestration.stages import Dependency, Stage
from tasks.stage.errors import ConfigError


def stage_names(root: Path) -> tuple[str, ...]:
    """Return the stages of a workspace, each after those it reads from.

    Raises:
        ConfigError: DVC can't read the workspace.
    """
    with _repository(root) as repository:
        graph = repository.index.graph
        # Where the graph leaves a choice, the order of the file decides.
        stages = [stage for stage in repository.index.stages if stage.cmd]
        places = {stage: place for place, stage in enumerate(stages)}
        edges = {
            stage: [dep for dep in graph.successors(stage) if dep in places] for stage in stages
        }
        sorter = TopologicalSorter(edges)
        sorter.prepare()
        ordered: list[Any] = []
        ready: list[Any] = []
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=places.__getitem__)
            ordered.append(ready.pop(0))
            sorter.done(ordered[-1])
        return tuple(stage.name for stage in ordered)


def read_stage(root: Path, name: str) -> Stage:
    """Return one stage with the hashes of what it depends on now.

    Raises:
        ConfigError: DVC can't read the workspace, or knows no such stage.
    """
    with _repository(root) as repository, repository.lock:
        return _read(repository, name)


def read_current(root: Path, names: Sequence[str]) -> dict[str, Stage]:
    """Return those of the first of these stages that are current, up to one that is not.

    DVC reads the workspace once for them all: a night with nothing new asks for nothing else.

    Raises:
        ConfigError: DVC can't read the workspace, or knows no such stage.
    """
    found: dict[str, Stage] = {}
    with _repository(root) as repository, repository.lock:
        for name in names:
            stage = _read(repository, name)
            if not stage.current:
                break
            found[name] = stage
    return found


def _read(repository: Any, name: str) -> Stage:
    stage = _find(repository, name)
    current = not stage.changed()
    stage.save_deps(allow_missing=True)
    params = {dep.def_path: dep for dep in stage.params}
    dependencies = tuple(
        Dependency(dep.def_path, str(dep.hash_info.value))
        for dep in stage.deps
        if dep.def_path not in params
    )
    values = {path: dep.hash_info.value for path, dep in sorted(params.items())}
    return Stage(
        name=name,
        command=stage.cmd,
        dependencies=dependencies,
        outs=tuple(out.def_path for out in stage.outs),
        params=tuple(params),
        key=_key(name, stage.cmd, dependencies, values),
        current=current,
    )


def params_files(root: Path, names: Iterable[str]) -> set[str]:
    """Return the params files that stages of a workspace read, without hashing what they depend on.

    Raises:
        ConfigError: DVC can't read the workspace, or knows no such stage.
    """
    with _repository(root) as repository:
        return {dep.def_path for name in names for dep in _find(repository, name).params}


def has_remote(root: Path) -> bool:
    """Return whether the workspace names a default remote to push to."""
    with _repository(root) as repository:
        return bool(repository.config["core"].get("remote"))


def cache_folder(root: Path) -> Path:
    """Return where DVC keeps the data of every version.

    Raises:
        ConfigError: DVC can't read the workspace.
    """
    with _repository(root) as repository:
        return Path(repository.cache.local.path)


def lacks_files(root: Path, tracked: str) -> bool:
    """Return whether a `.dvc` file names files that are not there, and that DVC may bring.

    So it is in a fresh clone, and after `git pull` brought the file of another machine.

    Raises:
        ConfigError: DVC can't read the workspace.
    """
    with _repository(root) as repository:
        [stage] = repository.stage.load_all(str(root / tracked))
        [out] = stage.outs
        folder = Path(out.fs_path)
        if not folder.exists():
            return True
        listed = Path(repository.cache.local.oid_to_path(out.hash_info.value))
        if listed.exists():
            files = json.loads(listed.read_bytes())
            return any(not (folder / file["relpath"]).exists() for file in files)
        # The cache may have been emptied beside rows that are whole.
        return out.changed_checksum() and bool(repository.config["core"].get("remote"))


@contextmanager
def locked_run_cache(root: Path) -> Iterator[Path]:
    """Hold DVC's lock of a workspace, and yield where it keeps what each run of a stage made.

    Raises:
        ConfigError: DVC can't read the workspace, or another process holds the lock.
    """
    with _repository(root) as repository, repository.lock:
        yield Path(repository.stage_cache.cache_dir)


def is_lock_whole(root: Path) -> bool:
    """Return whether DVC can read `dvc.lock`, or there is none.

    Raises:
        ConfigError: DVC can't read something else of the workspace.
    """
    with _repository(root) as repository:
        from dvc.dvcfile import Lockfile
        from dvc.exceptions import DvcException

        try:
            Lockfile(repository, str(root / "dvc.lock")).load()
        except DvcException:
            return False
        return True


def parse_lock(text: str) -> Any:
    """Return the content of a `dvc.lock`, a `.dvc` file or an entry of the run cache.

    By libyaml: a night reads those of all nights that are kept, and Python's parser takes eight
    times as long.
    """
    import yaml  # deferred: `nightloom --help` imports this module and parses nothing

    return yaml.load(text, Loader=yaml.CSafeLoader)


def found_in_remote(root: Path, oids: Iterable[str]) -> set[str] | None:
    """Return which of the objects the default remote holds, None where there is no remote.

    Raises:
        ConfigError: DVC can't read the workspace, or reach the remote.
    """
    with _repository(root) as repository:
        if not repository.config["core"].get("remote"):
            return None
        store = repository.cloud.get_remote_odb()
        try:
            return set(store.oids_exist(list(oids)))
        except Exception as error:  # of each kind of remote there are others
            raise ConfigError(
                f"DVC's remote does not answer: {error}",
                "bring it back, or try again later",
            ) from error


def remove_from_remote(root: Path, oids: Iterable[str]) -> int:
    """Delete objects from the default remote, where there is one; return how many were there.

    Raises:
        ConfigError: DVC can't read the workspace, or reach the remote.
    """
    with _repository(root) as repository:
        if not repository.config["core"].get("remote"):
            return 0
        store = repository.cloud.get_remote_odb()
        there = [oid for oid in oids if store.exists(oid)]
        for oid in there:
            store.delete(oid)
        return len(there)


def _find(repository: Any, name: str) -> Any:
    for stage in repository.index.stages:
        if getattr(stage, "name", None) == name:
            return stage
    raise ConfigError(f"dvc.yaml has no stage {name!r}", "name one that `dvc stage list` shows")


def _key(
    name: str, command: str, dependencies: tuple[Dependency, ...], params: dict[str, Any]
) -> str:
    hashes = sorted((dependency.path, dependency.digest) for dependency in dependencies)
    text = json.dumps([name, command, hashes, params], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _repository(root: Path) -> Iterator[Any]:
    """Open DVC's repository of a workspace; its errors become ours."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repository:
            yield repository
    except DvcException as error:
        raise ConfigError(f"DVC can't read {root}: {error}", _remedy(error)) from error


def _remedy(error: Exception) -> str:
    if "not a git repository" in str(error):
        return "run `git init` in it, or `dvc config core.no_scm true` to go without git"
    return "mend dvc.yaml or params/paths.yaml; `dvc repro --dry` says the same"
