"""Clones of this checkout, the `nightloom` command in them, and one night that tests share."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from flows.overrides import apply_overrides, read_overrides
from tasks.promotion.params import RulesParams
from tests.builders.planted import PLANTED, REMOTE, watched_processes
from tests.fingerprint.clone import Clone

OURS = ("PREFECT_", "MLFLOW_", "PYTEST_")
# Two layers answer nothing well: what is looked at is what becomes of a verdict.
MILD = [f"promotion.rules.{rule}.severity=warn" for rule in RulesParams.model_fields]
AUTOMATIC = "release.production=automatic"
# For nights of which no test asks how fast their models are: ten seconds less.
UNTIMED = "promotion.rules.latency.enabled=false"


def command(*arguments: str) -> list[str]:
    """The command line of `nightloom ARGUMENTS`."""
    return [sys.executable, "-m", "flows.cli", *arguments]


def environment() -> dict[str, str]:
    """What a command runs with: nothing that leads to another store or server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def nightloom(clone: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a clone, and return how it ended and what it said."""
    return subprocess.run(
        command(*arguments), cwd=clone, env=environment() | settings,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def git(root: Path, *words: str) -> str:
    """Run git in a folder as somebody, and return what it printed."""
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", *author, *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def run(clone: Path, **settings: str) -> tuple[int, dict[str, Any]]:
    """Run a night of the tiny preset; return its exit code and its report."""
    done = nightloom(clone, "run", "--preset", "tiny", "--json", **settings)
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


def as_in_a_terminal() -> None:
    """A shell lets its background jobs ignore some signals; these tests may run in one."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def set_params(clone: Path, *texts: str) -> None:
    """Write values FILE.KEY=VALUE into a clone's own params files."""
    overrides = read_overrides(clone, None, texts)
    for path in sorted((clone / "params").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if apply_overrides(content, path.stem, overrides):
            path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


@dataclass(frozen=True)
class BuiltClone:
    """A clone in which one night of the tiny preset ran, to be read and not to be changed."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> "BuiltClone":
        """Run a night whose versions are promoted, however they answer."""
        clone = Clone.make(Path(), root / "checkout").root
        set_params(clone, *MILD, AUTOMATIC)
        git(clone, "add", "--all")
        git(clone, "commit", "--quiet", "-m", "all of it")  # a night's run names its commit
        git(clone, "remote", "add", "origin", REMOTE)
        with watched_processes() as lines:
            night = run(clone, **PLANTED)
        assert night[0] == 0, night  # here, and not in each test that builds on it
        (root / "night.json").write_text(json.dumps(night), encoding="utf-8")
        (root / "processes.txt").write_text("\n".join(lines), encoding="utf-8")
        return cls(root)

    @property
    def checkout(self) -> Path:
        """The clone's folder."""
        return self.root / "checkout"

    @property
    def night(self) -> tuple[int, dict[str, Any]]:
        """The night's exit code and its report."""
        code, report = json.loads((self.root / "night.json").read_text(encoding="utf-8"))
        return code, report

    @property
    def process_lines(self) -> list[str]:
        """The command lines of the processes that were seen on this machine as the night ran."""
        return (self.root / "processes.txt").read_text(encoding="utf-8").splitlines()

    def copy(self, folder: Path) -> Path:
        """Return a copy of the clone, to be changed."""
        left = shutil.ignore_patterns("__pycache__")
        return shutil.copytree(self.checkout, folder, symlinks=True, ignore=left)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first of xdist's workers to ask fills; the others wait for it."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    place, whole = folder / name, folder / f"{name}.whole"
    with FileLock(folder / f"{name}.lock"):
        if not whole.exists():
            shutil.rmtree(place, ignore_errors=True)
            make(place)  # where it stays: stores and links hold absolute paths
            whole.touch()
    return place
