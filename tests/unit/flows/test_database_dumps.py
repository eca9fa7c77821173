"""Stores in PostgreSQL are saved and loaded whole by its own programs, and no password is shown."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy

from flows.database_dumps import dump_databases, load_databases
from flows.environment import set_environment
from tasks.stage.errors import ConfigError
from tests.builders.postgres import PASSWORD, programs, running_postgres

MLFLOW, PREFECT = "MLFLOW_TRACKING_URI", "PREFECT_API_DATABASE_CONNECTION_URL"
TEXTS = ["one", "두 번째", "it's \\ 100%"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server's URL with `{}` for a database's name."""
    with running_postgres() as url:
        known = url.replace("postgres@", f"postgres:{quote(PASSWORD, safe='')}@")
        yield known.replace("/postgres?", "/{}?").replace("%", "%%")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose commands find the server's own programs first."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs()), os.environ["PATH"]]))
    for name in (MLFLOW, PREFECT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/nights")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    return tmp_path


def url_of(server: str, database: str) -> str:
    return server.format(database).replace("%%", "%")


def ask(server: str, database: str, *statements: str) -> list[str]:
    """Run statements, and return the first column of the last one's rows."""
    url = url_of(server, database).replace("postgresql:", "postgresql+psycopg:")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        results = [connection.exec_driver_sql(statement) for statement in statements]
        rows = [row[0] for row in results[-1]] if results[-1].returns_rows else []
    engine.dispose()
    return rows


def name_stores(checkout: Path, server: str, mlflow: str, prefect: str) -> None:
    os.environ |= {MLFLOW: url_of(server, mlflow), PREFECT: url_of(server, prefect)}
    set_environment(checkout)


@pytest.mark.slow
def test_both_stores_come_back_in_other_databases(checkout: Path, server: str) -> None:
    names = ("mlflow_a", "prefect_a", "mlflow_b", "prefect_b")
    ask(server, "postgres", *(f"CREATE DATABASE {name}" for name in names))
    for name in names[:2]:
        values = ", ".join("('{}')".format(text.replace("'", "''")) for text in TEXTS)
        values = values.replace("%", "%%")
        ask(server, name, "CREATE TABLE runs (name text)", f"INSERT INTO runs VALUES {values}")
    name_stores(checkout, server, "mlflow_a", "prefect_a")
    left = dump_databases(checkout, checkout / "dumps")
    assert [line.partition(" of ")[0] for line in left] == ["the artifacts"]  # of the bucket
    assert PASSWORD not in left[0]
    assert sorted(path.name for path in (checkout / "dumps").iterdir()) == [
        "mlflow.dump",
        "prefect.dump",
    ]

    name_stores(checkout, server, "mlflow_b", "prefect_b")
    load_databases(checkout, checkout / "dumps")
    for name in names[2:]:
        assert ask(server, name, "SELECT name FROM runs") == TEXTS


@pytest.mark.slow
def test_what_fails_is_told_without_the_password(checkout: Path, server: str) -> None:
    name_stores(checkout, server, "nowhere", "nowhere")
    with pytest.raises(ConfigError, match=r'pg_dump failed .*"nowhere" does not exist') as told:
        dump_databases(checkout, checkout / "dumps")
    assert quote(PASSWORD, safe="") not in str(told.value)
    assert PASSWORD not in str(told.value)


def test_a_program_that_is_missing_is_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW, "postgresql://me:word@db.example/nights")
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(ConfigError, match="pg_dump is not installed"):
        dump_databases(checkout, checkout / "dumps")


def test_a_store_of_others_is_theirs_to_save(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW, "mysql+pymysql://me:word@db.example/nights")
    found = dump_databases(checkout, checkout / "dumps")
    assert found[0].startswith("mlflow at mysql+pymysql://me:***@db.example/nights is kept by")
    assert not (checkout / "dumps").exists()


def test_a_dump_without_a_database_to_load_it_into_is_refused(checkout: Path) -> None:
    (checkout / "dumps").mkdir()
    (checkout / "dumps" / "mlflow.dump").touch()
    with pytest.raises(ConfigError, match=f"expected the URL of an empty one in {MLFLOW}"):
        load_databases(checkout, checkout / "dumps")
