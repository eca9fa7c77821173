"""A store that an earlier commit made, unpacked beside today's code at another place."""

import json
import shutil
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app

FROZEN_AT = "/srv/nightloom"  # where the store was made: no such folder is there
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
        made = Frozen(shutil.copytree(self.root, root / "copy", symlinks=True, ignore=left))
        move_locations(made.root, str(self.root))
        return made


def move_locations(root: Path, old: str) -> None:
    """Let a store's locations name the folder where it lies now."""
    columns = (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
    )
    with closing(sqlite3.connect(root / ".nightloom" / "mlflow.db")) as database, database:
        for table, column in columns:
            change = f"update {table} set {column} = replace({column}, ?, ?)"
            database.execute(change, (old, str(root)))


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
    move_locations(root, FROZEN_AT)
    return Frozen(root)


@pytest.fixture(autouse=True)
def _no_stores_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


@pytest.fixture
def frozen(unpacked: Frozen, tmp_path: Path) -> Frozen:
    """The same, to be changed."""
    return unpacked.copy(tmp_path)
