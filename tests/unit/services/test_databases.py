"""Addresses of databases name the drivers that the lock file installs."""

import asyncio
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from flows.environment import find_stores, set_environment, shell_lines
from tasks.services.databases import is_database, with_asyncpg, with_psycopg
from tasks.services.stores import ARTIFACT_ROOT, open_experiment
from tasks.stage.errors import ConfigError
from tests.builders.postgres import PASSWORD, running_postgres

REST = "me:p%40ss@db.example:5432/nights"
SECRET = "p%40ss"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_postgresql_is_reached_by_the_drivers_that_are_there(scheme: str) -> None:
    url = f"{scheme}://{REST}"
    assert with_psycopg(url) == f"postgresql+psycopg://{REST}"
    assert with_asyncpg(url) == f"postgresql+asyncpg://{REST}"


def test_one_url_serves_both_drivers() -> None:
    """asyncpg knows `ssl`, all others `sslmode`."""
    mlflow = f"postgresql+psycopg://{REST}?application_name=n&sslmode=require"
    prefect = f"postgresql+asyncpg://{REST}?application_name=n&ssl=require"
    assert (with_asyncpg(mlflow), with_psycopg(prefect)) == (prefect, mlflow)
    assert (with_asyncpg(prefect), with_psycopg(mlflow)) == (prefect, mlflow)


@pytest.mark.parametrize(
    "uri",
    ["", "http://me@host:5000", "sqlite:////a/b.db", "postgresql+pg8000://h/d", "mysql://h/d"],
)
def test_other_addresses_stay(uri: str) -> None:
    assert (with_psycopg(uri), with_asyncpg(uri)) == (uri, uri)


def test_a_database_is_told_from_a_server() -> None:
    assert all(map(is_database, ["sqlite:///x", "postgres://h/d", "mysql+pymysql://h/d"]))
    assert not any(map(is_database, ["", "http://h", "https://h", "databricks", "file:///x"]))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout; what a test sets in this process's environment goes with it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    monkeypatch.setattr(os, "environ", kept)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    return tmp_path


def test_the_environment_of_every_command_is_translated(checkout: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_DATABASE_CONNECTION_URL"):
        os.environ[name] = f"postgresql://{REST}"
    lines = shell_lines(checkout)
    set_environment(checkout)
    assert os.environ["MLFLOW_TRACKING_URI"].startswith("postgresql+psycopg://")
    assert os.environ["PREFECT_API_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://")
    assert 'export MLFLOW_TRACKING_URI="postgresql+psycopg://${MLFLOW_TRACKING_URI#*://}"' in lines
    assert SECRET not in "".join(lines)


@pytest.mark.parametrize(
    ("root", "folder", "bucket", "location"),
    [
        ("s3://bucket/nights", None, "s3://bucket/nights", "s3://bucket/nights"),
        ("/mnt/nights", Path("/mnt/nights"), None, "file:///mnt/nights"),
        ("file:///mnt/nights", Path("/mnt/nights"), None, "file:///mnt/nights"),
    ],
)
def test_a_database_has_its_artifacts_where_the_user_says(
    checkout: Path, root: str, folder: Path | None, bucket: str | None, location: str
) -> None:
    os.environ |= {"MLFLOW_TRACKING_URI": f"postgresql://{REST}", ARTIFACT_ROOT: root}
    stores = find_stores(checkout)
    assert (stores.artifacts, stores.bucket, stores.location) == (folder, bucket, location)


@pytest.mark.parametrize("root", ["mlruns", "./mlruns", "~/mlruns", "file:mlruns"])
def test_a_place_that_depends_on_the_current_folder_is_refused(checkout: Path, root: str) -> None:
    os.environ |= {"MLFLOW_TRACKING_URI": f"postgresql://{REST}", ARTIFACT_ROOT: root}
    with pytest.raises(ConfigError, match=ARTIFACT_ROOT):
        find_stores(checkout)


class Empty:
    """An MLflow client of a store without experiments."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self.made: list[str | None] = []

    def get_experiment_by_name(self, _: str) -> None:
        return None

    def create_experiment(self, _: str, artifact_location: str | None) -> str:
        self.made.append(artifact_location)
        return "1"


def test_a_database_without_a_place_for_artifacts_is_refused() -> None:
    """MLflow would put the models below the folder that a command runs in."""
    client = Empty("postgresql+psycopg://h/d")
    with pytest.raises(ConfigError, match=ARTIFACT_ROOT):
        open_experiment(client, "nightloom", None)
    assert client.made == []
    server = Empty("http://h:5000")
    assert open_experiment(server, "nightloom", None) == "1"
    assert server.made == [None]


@pytest.mark.slow
def test_both_drivers_reach_a_real_server_by_the_url_that_names_none() -> None:
    """Prefect's own tables also need the extension pg_trgm, which this server does not have."""
    with running_postgres() as given:
        url = given.replace("postgres@", f"postgres:{quote(PASSWORD, safe='')}@")

        async def ask() -> object:
            engine = create_async_engine(with_asyncpg(url))
            async with engine.connect() as connection:
                found = (await connection.exec_driver_sql("SELECT 1")).scalar()
            await engine.dispose()
            return found

        assert asyncio.run(ask()) == 1
        engine = create_engine(with_psycopg(url))
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()
