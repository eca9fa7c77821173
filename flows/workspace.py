"""Where a night works: the checkout, or a copy with other params; one night at a time."""

import configparser
import difflib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from tasks.services import locks
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically
from tasks.stage.params import new_key, read_yaml

# Not params of a night: where things lie, and who is told, is the same in every workspace.
_FIXED = {"notify", "paths"}


@dataclass(frozen=True)
class Override:
    """One param and the value it gets; `key` is FILE.NAME, deeper names joined by more dots."""

    key: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Return the override that `FILE.KEY=VALUE` stands for; the value is YAML.

        Raises:
            ConfigError: the text has another form, or its value is not YAML.
        """
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigError(
                f"override {text!r} has no value; expected FILE.KEY=VALUE",
                "write e.g. --set finetuning.learning_rate=1.0e-4",
            )
        try:
            return cls(key.strip(), yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(
                f"the value of override {text!r} is not YAML: {error}", "quote it as YAML asks"
            ) from None


def override_text(key: str, value: Any) -> str:
    """Return the text that `Override.parse` reads back; YAML has numbers in a form of its own."""
    return f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"


def without_file(file: str, texts: Iterable[str]) -> list[str]:
    """Return the overrides that are not of this file of params."""
    return [text for text in texts if not text.strip().startswith(f"{file}.")]


def shown_value(value: Any) -> str:
    """Return a value as people read it: numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_overrides(root: Path, preset: str | None, texts: Sequence[str]) -> tuple[Override, ...]:
    """Return the overrides of a preset, then the given ones; the last one of a key wins.

    Raises:
        ConfigError: there is no such preset, or no such param.
    """
    items = [*_preset(root, preset), *(Override.parse(text) for text in texts)]
    chosen = {item.key: item for item in items}
    known = _known_keys(root)
    given = [name for item in chosen.values() for name in _keys({item.key: item.value}, "")]
    entries = tuple(name for name in (*known, *given) if name.endswith("."))
    for key in chosen:
        if key not in known and not (entries and key.startswith(entries)):
            if (new := new_key(key)) is not None:
                raise ConfigError(f"params/ holds no {key!r}", f"this param is called {new} now")
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise ConfigError(
                f"params/ holds no {key!r}; the nearest are {', '.join(near) or 'none'}",
                "name a param as FILE.KEY, FILE being a file of params/ without .yaml",
            )
    return tuple(chosen[key] for key in sorted(chosen))


def overrides_digest(overrides: Iterable[Override]) -> str:
    """Return twelve hex digits that stand for a set of overrides."""
    text = json.dumps({item.key: item.value for item in overrides}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def apply_overrides(content: dict[str, Any], file: str, overrides: Iterable[Override]) -> bool:
    """Put the overrides of this file into its content, and return whether there were any."""
    ours = [item for item in overrides if item.key.startswith(f"{file}.")]
    for item in ours:
        _, *keys, last = item.key.split(".")
        place: Any = content
        for key in keys:
            place = _inside(place, key, item)
        place[last] = deepcopy(item.value)  # a later override may change what is in it
    return bool(ours)


def _inside(place: Any, key: str, item: Override) -> Any:
    """Return the entry of that name in a list, else the section, made where it is not there."""
    if isinstance(place, list):
        found = next((entry for entry in place if entry.get("name") == key), None)
    else:
        found = place.setdefault(key, {})
    if not isinstance(found, dict | list):
        raise ConfigError(
            f"override {item.key!r}: there is no {key!r} to look into",
            "name an entry of a list by its name, e.g. ingestion.sources.python_docs.limit",
        )
    return found


def _preset(root: Path, name: str | None) -> list[Override]:
    if name is None:
        return []
    path = root / "params" / "presets" / f"{name}.yaml"
    if not path.exists():
        names = ", ".join(sorted(item.stem for item in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(
            f"there is no preset {name!r}; found {names}", "name one, or write params/presets/"
        )
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(content, list):
        return [Override.parse(str(text)) for text in content]
    return [Override(key, value) for key, value in read_yaml(path).items()]


def _known_keys(root: Path) -> list[str]:
    keys: list[str] = []
    for path in sorted((root / "params").glob("*.yaml")):
        if path.stem not in _FIXED:
            keys += _keys(read_yaml(path), f"{path.stem}.")
    return keys


def _keys(content: Mapping[str, Any], prefix: str) -> list[str]:
    """Return every name in nested mappings, the mappings themselves included.

    An entry of a list that has a name gives its own with a dot at the end: what is in it may be
    left out there, so that any key below it is one.
    """
    keys: list[str] = []
    for name, value in content.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _keys(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            names = (entry.get("name") for entry in value if isinstance(entry, dict))
            keys += [f"{prefix}{name}.{entry}." for entry in names if entry]
    return keys


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
        """Return the paths of `params/paths.yaml`, which count from the workspace."""
        return WorkspacePaths.model_validate(read_yaml(self.path / "params" / "paths.yaml"))

    def checkout_paths(self) -> WorkspacePaths:
        """Return the same as the checkout has them: there even before the workspace is."""
        return WorkspacePaths.model_validate(read_yaml(self.checkout / "params" / "paths.yaml"))


def find_checkout(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds a Nightloom project.

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
    """Return the checkout, if its path has no `?`, at which SQLAlchemy ends a file's address."""
    path, mark, _ = str(checkout).partition("?")
    if mark:
        raise ConfigError(
            f"the project's folder is {checkout}; expected a path without `?`, where a database's "
            f"address ends: MLflow, Prefect and Optuna would write to {path}, outside of it",
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
    own = any(_OWN_DATA.fullmatch(item.key) for item in workspace.overrides)
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
        if apply_overrides(content, path.stem, workspace.overrides):
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            write_atomically(target / path.name, text)


def _write_dvc_config(workspace: Workspace) -> None:
    """Write the checkout's DVC settings without git, and with the checkout's cache."""
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
