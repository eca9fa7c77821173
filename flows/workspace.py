"""Where a night works: the checkout, or a copy with other params; one night at a time."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from flows.overrides import Override, apply_overrides, overrides_digest, read_overrides
from tasks.services import locks
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically
from tasks.stage.params import read_yaml

STATE = ".nightloom"

# Params that say which rows are taken in.
_OWN_DATA = re.compile(r"ingestion\.(sources|source_defaults\.limit|sources\.[^.]+\.limit)")


class WorkspacePaths(BaseModel):
    """What flows need of `params/paths.yaml`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    raw: str
    source_weights: str
    accepted: str
    curated: str
    base: str
    embedder: str
    reranker: str
    student_base: str
    model_store: str
    scratch: str
    bundle: str
    evaluation_report: str
    curation_report: str
    validation_report: str
    tokenization_report: str
    packaging_report: str

    @property
    def frozen(self) -> tuple[str, ...]:
        """Return the files beside the rows that a night writes before its stages run."""
        models = (self.base, self.embedder, self.reranker, self.student_base)
        return (self.source_weights, *models)


@dataclass(frozen=True)
class Workspace:
    """A folder with its own params and data; `checkout` keeps the stores that all share."""

    checkout: Path
    path: Path
    overrides: tuple[Override, ...]

    @property
    def name(self) -> str:
        """Return `checkout`, or the digest of the overrides."""
        return "checkout" if self.path == self.checkout else self.path.name

    @property
    def lock(self) -> Path:
        """Return the file that a night in this workspace holds."""
        return self.path / STATE / "night.lock"

    def paths(self) -> WorkspacePaths:
        """Return the paths of the checkout's `params/paths.yaml`, which count from the workspace.

        No override changes them, and a workspace of an earlier release may not know them all.
        """
        return WorkspacePaths.model_validate(read_yaml(self.checkout / "params" / "paths.yaml"))


def find_checkout(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds a Nightloom project.

    Raises:
        ConfigError: there is none, or its path can't be read where libraries keep it.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "prefect.yaml").exists() and (folder / "dvc.yaml").exists():
            return _addressable(folder)
    raise ConfigError(
        f"no project at or above {start}: expected prefect.yaml and dvc.yaml side by side",
        "change into the project's folder, or pass --root",
    )


# What a path can't hold: how it is named, and what happens where it does.
_UNREADABLE = (
    (r"\?", "`?`", "MLflow, Prefect and Optuna end a database's address there, and would write to "
     "{before}, outside of it"),
    (r"%\([^)]*\)s", "`%(NAME)s`", "DVC takes it for a value of its config to fill in"),
    (r"\$", "`$`", "MLflow takes what follows for a variable, and writes elsewhere"),
    (r"[{}]", "braces", "DVC takes what stands in them for a value to fill in"),
    (r"[\x00-\x1f\x7f]", "control characters", "configs and logs are read line by line"),
)  # fmt: skip


def _addressable(checkout: Path) -> Path:
    """Return the checkout, if all libraries can read its path where they keep it."""
    for pattern, what, why in _UNREADABLE:
        found = re.search(pattern, str(checkout))
        if found is not None:
            before = str(checkout)[: found.start()]
            raise ConfigError(
                f"the project's folder is {str(checkout)!r}; expected a path without {what}: "
                f"{why.format(before=before)}",
                "rename the folder",
            )
    return checkout


def choose_workspace(checkout: Path, preset: str | None, texts: Sequence[str]) -> Workspace:
    """Return the workspace that a preset and overrides ask for; write nothing yet.

    Raises:
        ConfigError: an override names no param.
    """
    overrides = read_overrides(checkout, preset, texts)
    if not overrides:
        return Workspace(checkout, checkout, ())
    path = checkout / STATE / "workspaces" / overrides_digest(overrides)
    return Workspace(checkout, path, overrides)


def prepare(workspace: Workspace) -> None:
    """Bring a workspace up to date with the checkout: its code, graph and params.

    Data stay. A new workspace begins with the checkout's intakes, unless its overrides say where
    rows come from; what the checkout withdrew since is withdrawn here as well.
    """
    if workspace.path == workspace.checkout:
        return
    new = not (workspace.path / "dvc.yaml").exists()
    _copy_code(workspace)
    _write_params(workspace)
    _copy_dvc_settings(workspace)
    _share_models(workspace)
    raw = workspace.paths().raw
    own = any(_OWN_DATA.fullmatch(item.key) for item in workspace.overrides)
    if new and not own and (workspace.checkout / raw).is_dir():
        shutil.copytree(workspace.checkout / raw, workspace.path / raw, dirs_exist_ok=True)
    if not new:
        # Deferred: it imports pyarrow, which most commands do without.
        from tasks.ingestion.withdrawal import copy_withdrawals

        copy_withdrawals(workspace.checkout / raw, workspace.path / raw)
    # Last, since it says that the workspace is whole.
    shutil.copy2(workspace.checkout / "dvc.yaml", workspace.path / "dvc.yaml")


def _copy_code(workspace: Workspace) -> None:
    """Copy the stages' code; what the checkout no longer has goes."""
    target = workspace.path / "tasks"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        workspace.checkout / "tasks", target, ignore=shutil.ignore_patterns("__pycache__")
    )


def _write_params(workspace: Workspace) -> None:
    """Copy params, prompts and presets, with the overrides applied."""
    source, target = workspace.checkout / "params", workspace.path / "params"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for path in sorted(source.glob("*.yaml")):
        content = read_yaml(path)
        if apply_overrides(content, path.stem, workspace.overrides):
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            write_atomically(target / path.name, text)


def _copy_dvc_settings(workspace: Workspace) -> None:
    """Give the workspace the checkout's DVC settings, cache and remotes."""
    # Deferred: it imports what most commands do without.
    from flows.dvc_settings import copy_settings

    copy_settings(workspace.checkout, workspace.path)
    shutil.copy2(workspace.checkout / ".dvcignore", workspace.path / ".dvcignore")


def _share_models(workspace: Workspace) -> None:
    """Let the workspace's model store be the checkout's."""
    store = workspace.paths().model_store
    shared, link = workspace.checkout / store, workspace.path / store
    shared.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.readlink() != shared:
        link.unlink()  # of another checkout, which this one was copied or moved from
    if not link.exists():
        link.symlink_to(shared, target_is_directory=True)


def share_inputs(base: Workspace, workspace: Workspace) -> None:
    """Let a workspace read the very rows and models of another."""
    paths = base.paths()
    target = workspace.path / paths.raw
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base.path / paths.raw, target, copy_function=_link)
    for name in paths.frozen:
        (workspace.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base.path / name, workspace.path / name)


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it if the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def night_lock(path: Path) -> Iterator[None]:
    """Hold a workspace's lock; it is free again when the holder dies, however it dies.

    Raises:
        ConfigError: another night holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.hold(path))
        except locks.LockedError:
            raise _locked_error(path, locks.read_pid(path)) from None
        yield


def check_unlocked(path: Path) -> None:
    """Check that no night holds the lock.

    Raises:
        ConfigError: one does.
    """
    holder = locks.find_holder(path)
    if holder is not None:
        raise _locked_error(path, holder)


def holders(checkout: Path) -> dict[str, int]:
    """Return the pids of all nights that run in a checkout, by workspace."""
    paths = {"checkout": checkout / STATE / "night.lock"}
    for path in sorted((checkout / STATE / "workspaces").glob(f"*/{STATE}/night.lock")):
        paths[path.parent.parent.name] = path
    found = {name: locks.find_holder(path) for name, path in paths.items()}
    return {name: pid for name, pid in found.items() if pid is not None}


def _locked_error(path: Path, holder: int | None) -> ConfigError:
    return ConfigError(
        f"a night is running here already: process {holder or 'unknown'} holds {path}",
        "wait for it (`nightloom status` shows it), or end it with `kill PID`",
    )
