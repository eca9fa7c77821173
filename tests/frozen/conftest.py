"""A store that an earlier commit made, unpacked beside today's code at another place."""

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app

TODAYS = ("dvc.yaml", "prefect.yaml", ".dvcignore", "params", "tasks")


@dataclass(frozen=True)
class Frozen:
    """A checkout of today's code whose stores an earlier commit made."""

    root: Path

    @property
    def models(self) -> Path:
        """The folder of base models."""
        return self.root / ".nightloom" / "models"

    @property
    def store(self) -> str:
        """MLflow's tracking URI."""
        return f"sqlite:///{self.root / '.nightloom' / 'mlflow.db'}"

    def said(self, name: str) -> Any:
        """Return what the commit that made the store said of it."""
        return json.loads((self.root / "said" / f"{name}.json").read_text(encoding="utf-8"))

    def call(self, *words: str) -> Any:
        """Return the JSON that a command of today's prints, once it ended well."""
        found = CliRunner().invoke(app, [*words, "--root", str(self.root), "--json"])
        assert found.exit_code == 0, (found.stdout, found.stderr, found.exception)
        return json.loads(found.stdout)

    def copy(self, root: Path) -> "Frozen":
        """Return a copy to change, without DVC's cache and the workspaces."""
        left = shutil.ignore_patterns("cache", "workspaces")
        return Frozen(shutil.copytree(self.root, root / "copy", symlinks=True, ignore=left)).moved()

    def moved(self) -> "Frozen":
        """Return it once a first command has found the store where it lies now."""
        self.call("status")
        return self


@pytest.fixture(scope="package")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    """The store of 718988b, to be read and not to be changed."""
    here = Path(__file__)
    root = tmp_path_factory.mktemp("frozen") / "checkout"
    root.mkdir()
    for name in TODAYS:
        (root / name).symlink_to(here.parents[2] / name)
    with tarfile.open(here.with_name("store-718988b.tar.xz")) as archive:
        archive.extractall(root, filter="data")
    shutil.copy2(here.parents[2] / ".dvc" / "config", root / ".dvc")
    with pytest.MonkeyPatch.context() as patch:
        _alone(patch, root.parent)
        return Frozen(root).moved()


@pytest.fixture(autouse=True)
def _no_stores_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _alone(monkeypatch, tmp_path)


def _alone(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Let no command find another store than that of its checkout."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        patch.delenv(name, raising=False)
    patch.setenv("PREFECT_HOME", str(home / "prefect"))


@pytest.fixture
def frozen(unpacked: Frozen, tmp_path: Path) -> Frozen:
    """The same, to be changed."""
    return unpacked.copy(tmp_path)
