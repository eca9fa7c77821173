"""Where a night works: the checkout itself, or a copy of it with other params."""

import configparser
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from flows.overrides import Override, apply, digest, read_overrides
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically
from tasks.stage.params import read_yaml

STATE = ".nightloom"
_OWN_DATA = ("ingestion.source", "ingestion.limit")


class WorkspacePaths(BaseModel):
    """What flows need of `params/paths.yaml`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    raw: str
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
    packaging_report: str


@dataclass(frozen=True)
class Workspace:
    """A folder with its own params and data; `checkout` keeps the stores that all share."""

    checkout: Path
    path: Path
    overrides: tuple[Override, ...]

    @property
    def name(self) -> str:
        """`checkout`, or the digest of the overrides."""
        return "checkout" if self.path == self.checkout else self.path.name

    @property
    def lock(self) -> Path:
        """The file that a night in this workspace holds."""
        return self.path / STATE / "night.lock"

    def paths(self) -> WorkspacePaths:
        """The paths of `params/paths.yaml`, which count from the workspace."""
        return WorkspacePaths.model_validate(read_yaml(self.path / "params" / "paths.yaml"))

    def checkout_paths(self) -> WorkspacePaths:
        """The same as the checkout has them: there even before the workspace is."""
        return WorkspacePaths.model_validate(read_yaml(self.checkout / "params" / "paths.yaml"))


def find_checkout(start: Path) -> Path:
    """The nearest folder at or above `start` that holds a Nightloom project.

    Raises:
        ConfigError: there is none, or its path can't be named in a database's address.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "prefect.yaml").exists() and (folder / "dvc.yaml").exists():
            return _addressable(folder)
    raise ConfigError(
        f"no project at or above {start}: expected prefect.yaml and dvc.yaml side by side",
        "change into the project's folder, or pass --root",
    )


def _addressable(checkout: Path) -> Path:
    """The checkout, whose path has no `?`: SQLAlchemy's address of a file ends there."""
    path, mark, _ = str(checkout).partition("?")
    if mark:
        raise ConfigError(
            f"the project's folder is {checkout}; expected a path without `?`, where a database's "
            f"address ends: MLflow, Prefect and Optuna would write to {path}, outside of it",
            "rename the folder",
        )
    return checkout


def choose_workspace(checkout: Path, preset: str | None, texts: Sequence[str]) -> Workspace:
    """The workspace that a preset and overrides ask for; nothing is written yet.

    Raises:
        ConfigError: an override names no param.
    """
    overrides = read_overrides(checkout, preset, texts)
    if not overrides:
        return Workspace(checkout, checkout, ())
    path = checkout / STATE / "workspaces" / digest(overrides)
    return Workspace(checkout, path, overrides)


def prepare(workspace: Workspace) -> None:
    """Bring a workspace up to date with the checkout: its code, graph and params.

    Data stay. A new workspace begins with the checkout's intakes, unless its overrides say where
    rows come from.
    """
    if workspace.path == workspace.checkout:
        return
    new = not (workspace.path / "dvc.yaml").exists()
    _copy_code(workspace)
    _write_params(workspace)
    _write_dvc_config(workspace)
    _share_models(workspace)
    raw = workspace.paths().raw
    own = any(item.key in _OWN_DATA for item in workspace.overrides)
    if new and not own and (workspace.checkout / raw).is_dir():
        shutil.copytree(workspace.checkout / raw, workspace.path / raw, dirs_exist_ok=True)
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
        if apply(content, path.stem, workspace.overrides):
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            write_atomically(target / path.name, text)


def _write_dvc_config(workspace: Workspace) -> None:
    """The checkout's DVC settings without git, and with the checkout's cache."""
    source, target = workspace.checkout / ".dvc", workspace.path / ".dvc"
    target.mkdir(parents=True, exist_ok=True)
    settings = configparser.ConfigParser()
    settings.read(source / "config", encoding="utf-8")
    for section in ("core", "cache"):
        if not settings.has_section(section):
            settings.add_section(section)
    settings["core"]["no_scm"] = "true"
    # A relative path in a DVC config counts from the folder of the config.
    settings["cache"]["dir"] = str(source / settings["cache"].get("dir", "cache"))
    with (target / "config").open("w", encoding="utf-8") as stream:
        settings.write(stream)
    if (source / "config.local").exists():
        shutil.copy2(source / "config.local", target / "config.local")
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
    for name in (paths.base, paths.embedder, paths.reranker, paths.student_base):
        (workspace.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base.path / name, workspace.path / name)


def _link(source: str, target: str) -> None:
    """A second name for a file; where file systems differ, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
