"""What 718988b left is saved, restored elsewhere, and its schemas are brought up to date."""

import json
import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from click.testing import Result
from mlflow.store.db import utils
from typer.testing import CliRunner

from flows.cli import app
from flows.environment import find_stores
from tasks.ingestion.erased_rows import ErasedRow
from tasks.orchestration.tracking import Tracker
from tasks.stage.errors import ConfigError
from tests.frozen.conftest import TODAYS, Frozen


def empty_clone(root: Path) -> Path:
    """Today's code without stores, to be changed."""
    root.mkdir()
    for name in TODAYS:
        here = Path(name)
        (shutil.copytree if here.is_dir() else shutil.copyfile)(here, root / name)
    (root / ".dvc").mkdir()
    shutil.copyfile(".dvc/config", root / ".dvc" / "config")
    return root


def said(done: Result) -> str:
    """What a command told, on one line."""
    return " ".join(done.stderr.split())


def contents(root: Path) -> dict[str, bytes]:
    """Every artifact, object of DVC's cache and weight."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in (".nightloom/artifacts", ".nightloom/models", ".dvc/cache", "data/raw")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def original(unpacked: Frozen, tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    """The store with its cache and workspaces, which do without git."""
    root = tmp_path_factory.mktemp("original") / "checkout"
    shutil.copytree(unpacked.root, root, symlinks=True)
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    return Frozen(root).moved()


@pytest.fixture(scope="module")
def saved(original: Frozen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "saved"
    assert original.call("backup", "--to", str(folder))["place"] == str(folder)
    return folder


def test_a_backup_restored_elsewhere_holds_all_and_says_the_same(
    saved: Path, original: Frozen, tmp_path: Path
) -> None:
    clone = Frozen(empty_clone(tmp_path / "clone"))
    assert clone.call("restore", str(saved))["erased_again"] == 0
    assert contents(clone.root) == contents(original.root)
    for words in (("ledger", "--limit", "1000"), ("ledger", "verify"), ("status",)):
        assert clone.call(*words) == original.call(*words) or words == ("status",)
    assert clone.call("status")["aliases"] == original.call("status")["aliases"]
    assert list(saved.rglob("prefect-auth")) == []
    again = CliRunner().invoke(app, ["restore", str(saved), "--root", str(clone.root)])
    assert again.exit_code == 1
    assert "expected a clone without stores" in said(again)


def test_what_was_erased_since_is_erased_before_anything_else_runs(
    saved: Path, original: Frozen, tmp_path: Path
) -> None:
    """The list is a later one's than the backup's."""
    lost = Frozen(empty_clone(tmp_path / "lost"))
    lost.call("restore", str(saved))
    [intake, *_] = sorted((lost.root / "data" / "raw" / "intakes").iterdir())
    line = (intake / "records.jsonl").read_text().splitlines()[0]
    row = json.loads(line)
    assert lost.call("erase", row["id"], "--reason", "asked for")["rows"]
    later = tmp_path / "erased.jsonl"
    shutil.copyfile(lost.root / ".nightloom" / "erased.jsonl", later)
    assert ErasedRow.model_validate_json(later.read_text().splitlines()[0]).id == row["id"]
    clone = Frozen(empty_clone(tmp_path / "clone"))
    assert clone.call("restore", str(saved), "--erased", str(later))["erased_again"] >= 1
    names = ("records.jsonl", "documents.jsonl")
    lines = [
        line
        for name in names
        for path in (clone.root / "data").rglob(name)
        for line in path.read_text().splitlines()
    ]
    assert lines
    assert row["id"] not in [json.loads(line)["id"] for line in lines if line]


def test_a_backup_that_is_not_whole_restores_nothing(saved: Path, tmp_path: Path) -> None:
    damaged, root = tmp_path / "damaged", empty_clone(tmp_path / "clone")
    shutil.copytree(saved, damaged)
    victim = next(path for path in sorted(damaged.rglob("*.safetensors")))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    for source in (damaged, tmp_path):
        done = CliRunner().invoke(app, ["restore", str(source), "--root", str(root)])
        assert done.exit_code == 1
        assert re.search("is no backup|does not match its manifest", said(done))
    assert not (root / ".nightloom" / "mlflow.db").exists()
    full = CliRunner().invoke(app, ["backup", "--to", str(saved), "--root", str(root)])
    assert "expected a new or empty folder" in said(full)


OLDER = "17e22815139b"  # three migrations before that of MLflow 3.17


def older_store(checkout: Path) -> Path:
    """An MLflow database as an MLflow of years ago made it."""
    path = checkout / ".nightloom" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    url = f"sqlite:///{path}"
    engine = sqlalchemy.create_engine(url)
    utils.InitialBase.metadata.create_all(engine)
    from alembic import command

    config = utils._get_alembic_config(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    engine.dispose()
    return path


def test_a_store_of_an_older_mlflow_is_upgraded_with_a_copy(tmp_path: Path) -> None:
    clone = empty_clone(tmp_path / "clone")
    older_store(clone)
    [mlflow] = Frozen(clone).call("upgrade")
    assert (mlflow["store"], mlflow["before"]) == ("mlflow", OLDER)
    with closing(sqlite3.connect(mlflow["copy"])) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == (OLDER,)
    assert Path(mlflow["copy"]).stat().st_mode & 0o077 == 0
    Tracker(find_stores(clone))
    assert Frozen(clone).call("upgrade")[0]["copy"] is None


@pytest.mark.parametrize("revision", [OLDER, "of the future"])
def test_a_store_of_another_mlflow_is_told_at_once_and_not_waited_for(
    revision: str, frozen: Frozen
) -> None:
    # At an address that MLflow has not opened in this process.
    root = frozen.root.rename(frozen.root.with_name("opened anew"))
    with closing(sqlite3.connect(root / ".nightloom" / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="schema of another MLflow") as caught:
        Tracker(find_stores(root))
    assert time.monotonic() - begun < 45, "it was waited for as if it were away"
    assert "`nightloom upgrade`" in caught.value.remedy
