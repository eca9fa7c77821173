"""A registered version made again: its code, params and data, and every stage run once more.

It happens in a git worktree at the version's commit, below `.nightloom/reproduced`. The stages run
by force and without the run cache, and what they make stays out of the cache.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.differences import Compared, as_made, compare_inputs, compare_outs, read_lock
from flows.dvc_settings import copy_settings
from flows.environment import find_stores
from flows.graph import cache_folder, has_remote, read_stage, stage_names
from flows.workspace import STATE, Workspace, WorkspacePaths
from tasks.orchestration.tracking import Tracker
from tasks.records.schema import ServedModel
from tasks.registry.client import Registry
from tasks.registry.versions import Version
from tasks.services.processes import left_failure, run_child, stage_error
from tasks.stage.errors import ConfigError, NightloomError

# Among a night's artifacts: what `flows.record` keeps of what it was made from.
MADE_FROM = "versions"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Reproduction:
    """What was found of a version, stage by stage, and where it was made again.

    `error` ended it early: the stages after it are missing.
    """

    version: str
    commit: str
    folder: Path
    compared: tuple[Compared, ...]
    error: str | None

    @property
    def is_same(self) -> bool:
        """Return whether all that was read and made is as it was, but for times."""
        return all(one.status in ("same", "same but for times") for one in self.compared)


def reproduce(
    checkout: Path, model: ServedModel, number: int, say: Say, *, run: bool
) -> Reproduction:
    """Make a version again, and compare. Without `run`, only what the stages would read.

    Raises:
        ConfigError: the version's run does not say what it was made from, or the code or the rows
            are not to be had.
    """
    stores = find_stores(checkout)
    registry = Registry(stores)
    version = registry.version(model, number)
    kept = Tracker(stores).kept(version.run_id)
    if kept is None or kept.commit is None:
        raise _unknown(version, "git commit: the project was not in git, or its run was deleted")
    folder = checkout / STATE / "reproduced" / f"{model}-{number}"
    say(f"checking out {kept.commit[:12]} in {folder}")
    root = _check_out(checkout, kept.commit, folder)
    made_from = registry.files_of_run(version, MADE_FROM, folder.with_name(f"{folder.name}.from"))
    lock = read_lock(made_from / "dvc.lock")
    if not lock:
        raise _unknown(version, "dvc.lock")
    _place_params(root, made_from, lock, kept.params)
    _place_data(checkout, root, made_from, say)
    compared, error = _stages(root, lock, cache_folder(checkout), say, run=run)
    return Reproduction(version.name, kept.commit, root, tuple(compared), error)


def _unknown(version: Version, what: str) -> ConfigError:
    return ConfigError(
        f"the run of {version.name} has no {what}; expected both the commit and the dvc.lock of "
        "the night, because without them nothing says what it was made from",
        "name a version that a night made in a git checkout; `nightloom ledger` lists them",
    )


def _check_out(checkout: Path, commit: str, folder: Path) -> Path:
    """Return the project's folder in a fresh worktree at a commit."""
    _git(checkout, "worktree", "prune")
    if folder.exists():
        _git(checkout, "worktree", "remove", "--force", str(folder))
    _git(checkout, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    [*_, prefix] = ("", *_git(checkout, "rev-parse", "--show-prefix"))
    return folder / prefix


def _git(checkout: Path, *words: str) -> tuple[str, ...]:
    child = run_child(["git", *words], checkout)
    if child.code != 0:
        raise ConfigError(
            f"`git {' '.join(words)}` failed in {checkout}:\n{child.last_lines}",
            "fetch the commit where another clone made the version (`git fetch --all`), or mend "
            "what git names",
        )
    return child.lines


def _place_params(
    root: Path, made_from: Path, lock: Mapping[str, Any], logged: Mapping[str, str]
) -> None:
    """Bring the params of the version: all files, as its run kept them.

    A run of before 0.3 kept the stages' in its lock alone, and `compute.yaml` as text in MLflow.
    """
    if (made_from / "params").is_dir():
        shutil.copytree(made_from / "params", root / "params", dirs_exist_ok=True)
        return
    for section in lock.values():
        for name, values in section.get("params", {}).items():
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            (root / name).write_text(text, encoding="utf-8")
    compute = root / "params" / "compute.yaml"
    content = yaml.safe_load(compute.read_text(encoding="utf-8"))
    given = {name: logged[f"compute.{name}"] for name in content if f"compute.{name}" in logged}
    content |= {name: yaml.safe_load(text) for name, text in given.items()}
    compute.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _place_data(checkout: Path, root: Path, made_from: Path, say: Say) -> None:
    """Bring rows and frozen files, with the checkout's cache and its models."""
    copy_settings(checkout, root)
    # The paths that the version's own code counts from, which may not be today's.
    paths = Workspace(root, root, ()).paths()
    tracked = root / f"{paths.raw}.dvc"
    tracked.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(made_from / tracked.name, tracked)
    for name in paths.frozen:
        _place_frozen(checkout, root, name, made_from)
    link = root / paths.model_store
    link.parent.mkdir(parents=True, exist_ok=True)
    models = checkout / Workspace(checkout, checkout, ()).paths().model_store
    link.symlink_to(models, target_is_directory=True)
    say("bringing the rows that it was made from")
    (root / "dvc.lock").unlink(missing_ok=True)
    if has_remote(root):
        shutil.copy2(made_from / "dvc.lock", root / "dvc.lock")
        _dvc(root, "fetch")  # the rows, and what the stages made, to be compared with
        (root / "dvc.lock").unlink()
    child = _dvc(root, "checkout", "--force", f"{paths.raw}.dvc")
    if child is not None:
        raise ConfigError(
            f"the rows of the version are not to be had:\n{child}",
            "an erasure may have taken them, or they lie in a DVC remote that this checkout does "
            "not name; `dvc remote list` shows those that it does",
        )


def _place_frozen(checkout: Path, root: Path, name: str, made_from: Path) -> None:
    """Bring a file that says which model or which weights were used; it has few bytes."""
    target, kept = root / name, made_from / Path(name).name
    target.parent.mkdir(parents=True, exist_ok=True)
    # A run of before 0.3 kept none. What is here is compared with the lock like all else.
    here = [checkout / name, *sorted((checkout / STATE / "workspaces").glob(f"*/{name}"))]
    wanted = _digest(made_from / "dvc.lock", name)
    for source in (kept, *(path for path in here if _md5(path) == wanted)):
        if source.exists():
            shutil.copy2(source, target)
            return


def _digest(lock: Path, name: str) -> str | None:
    """Return the digest that a lock has of a file that some stage reads."""
    deps = (dep for stage in read_lock(lock).values() for dep in stage.get("deps", ()))
    return next((dep["md5"] for dep in deps if dep["path"] == name), None)


def _md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes()).hexdigest() if path.exists() else None


def _dvc(root: Path, *words: str) -> str | None:
    """Run DVC in the worktree; return what it said last where it failed."""
    child = run_child([sys.executable, "-m", "dvc", "--wait-for-lock", *words], root)
    return None if child.code == 0 else child.last_lines


def _stages(
    root: Path, lock: Mapping[str, Any], cache: Path, say: Say, *, run: bool
) -> tuple[list[Compared], str | None]:
    """Return what was compared of each stage, and the error of one that failed."""
    scratch = WorkspacePaths.model_validate(
        yaml.safe_load((root / "params" / "paths.yaml").read_text(encoding="utf-8"))
    ).scratch
    made = {out["path"] for stage in lock.values() for out in stage["outs"]}
    compared: list[Compared] = []
    error: str | None = None
    for name in stage_names(root):
        then = lock.get(name, {})
        if run and error is None:
            say(f"running {name}")
            try:
                _run(root, name, root / scratch / name)
            except NightloomError as failed:
                error = f"{name}: {failed}"
        if run:
            now = read_lock(root / "dvc.lock").get(name, {})
            compared += as_made(compare_inputs(name, then, now), compared)
            compared += compare_outs(name, then, now, root, cache)
        else:
            found = compare_inputs(name, then, _inputs_now(root, name))
            compared += [one for one in found if one.name not in made]
    return compared, error


def _run(root: Path, name: str, scratch: Path) -> None:
    """Run a stage whatever the caches hold.

    Raises:
        NightloomError: it failed.
    """
    options = ["--single-item", "--force", "--no-commit", name]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *options]
    child = run_child(command, root)
    if child.code != 0:
        raise stage_error(name, left_failure(scratch, child))


def _inputs_now(root: Path, name: str) -> dict[str, Any]:
    """Return what a stage would read now, in the form of a lock."""
    stage = read_stage(root, name)
    deps = [{"path": item.path, "md5": item.digest} for item in stage.dependencies]
    params = {
        file: yaml.safe_load((root / file).read_text(encoding="utf-8")) for file in stage.params
    }
    return {"deps": deps, "params": params}
