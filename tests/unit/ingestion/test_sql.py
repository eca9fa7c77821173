"""Queries to sqlite and to a real PostgreSQL: streamed, incremental, and no password is shown."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import URL

from tasks.ingestion.intake_files import intake_folders
from tasks.ingestion.intakes import Intake, take_in
from tasks.ingestion.params import IngestionParams
from tasks.ingestion.sources.sql import read_url
from tasks.stage.errors import ConfigError, DataError, NightloomError
from tests.builders.ingestion import ingestion_params
from tests.builders.postgres import PASSWORD, running_postgres

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VARIABLE = "NIGHTLOOM_TEST_DATABASE"
FAQ = "SELECT id, question, answer, documents, changed FROM faq ORDER BY id"


@dataclass
class Database:
    """A database with a table faq, its URL in the environment, and the raw folder of its nights."""

    url: URL
    raw: Path
    nights: int = 0

    def do(self, *statements: str) -> None:
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def night(self, **sql: Any) -> Intake | None:
        self.nights += 1
        now = NOW + timedelta(days=self.nights)
        return take_in(_params(**sql), self.raw, now, accepted=self.raw / "none").intake

    def rows(self, kind: str = "records") -> list[Any]:
        path = intake_folders(self.raw)[-1] / f"{kind}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _params(**sql: Any) -> IngestionParams:
    section = {"url_variable": VARIABLE} | _queries(FAQ) | sql
    return ingestion_params({"name": "faq", "kind": "sql", "sql": section})


def _queries(records: str, since: str | None = None) -> dict[str, Any]:
    return {"records": {"query": records, "since": since}}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Database:
    if request.param == "sqlite":
        url = sqlalchemy.make_url(f"sqlite:///{tmp_path / 'faq.db'}")
    else:
        url = sqlalchemy.make_url(request.getfixturevalue("server")).set(password=PASSWORD)
    monkeypatch.setenv(VARIABLE, url.render_as_string(hide_password=False))
    made = Database(read_url(None, VARIABLE), tmp_path / "raw")
    made.do(
        "DROP TABLE IF EXISTS faq",
        "CREATE TABLE faq (id INTEGER PRIMARY KEY, question TEXT, answer TEXT, documents TEXT, "
        "changed TIMESTAMP)",
        "INSERT INTO faq VALUES "
        """(1, '몇 시예요?', 'It is 12:30.', '["d1", "d2"]', '2026-01-01 10:00:00')""",
        "INSERT INTO faq VALUES (2, 'Is it sure?', 'No.', 'd1', '2026-01-01 11:00:00')",
    )
    return made


def test_rows_come_in_once_with_their_origins(database: Database) -> None:
    documents = {"query": "SELECT 7 AS id, 'A text: it is.' AS text", "since": None}
    intake = database.night(documents=documents)

    assert intake is not None
    assert (intake.records, intake.documents, intake.faulty) == (2, 1, 0)
    first, second = database.rows()
    assert (first["id"], first["question"]) == ("1", "몇 시예요?")
    assert (first["documents"], second["documents"]) == (["d1", "d2"], ["d1"])
    assert database.rows("documents") == [{"id": "7", "text": "A text: it is."}]
    assert database.night(documents=documents) is None


def test_a_night_asks_only_for_what_came_since(database: Database) -> None:
    first = database.night(**_queries(FAQ, "changed"))
    database.do(
        "UPDATE faq SET answer = 'unnoticed: its time stays' WHERE id = 1",
        "INSERT INTO faq VALUES (3, 'Late?', 'The same second.', NULL, '2026-01-01 11:00:00')",
        "INSERT INTO faq VALUES (4, 'New?', 'Yes.', NULL, '2026-01-03 09:00:00')",
        "INSERT INTO faq VALUES (5, 'Timeless?', 'Yes.', NULL, NULL)",
    )

    second = database.night(**_queries(FAQ, "changed"))

    assert first is not None
    assert second is not None
    assert first.source_updated == "2026-01-01T11:00:00+00:00"
    assert second.source_updated == "2026-01-03T09:00:00+00:00"
    assert sorted(row["id"] for row in database.rows()) == ["3", "4", "5"]
    assert database.night(**_queries(FAQ, "changed")) is None


def test_another_query_begins_from_the_start(database: Database) -> None:
    database.night(**_queries(f"{FAQ} LIMIT 1", "changed"))

    database.night(**_queries(FAQ, "changed"))

    assert [row["id"] for row in database.rows()] == ["2"]


def test_a_query_is_sent_as_it_is_written(database: Database) -> None:
    query = (
        "SELECT 'a' AS id, '12:30 :x %' AS question, CAST(id AS TEXT) AS answer FROM faq "
        "WHERE question LIKE '%몇%' -- the last word;"
    )
    for since in (None, "answer"):
        database.night(**_queries(query, since))
        database.do("UPDATE faq SET id = 9 WHERE id = 1")

    assert database.rows() == [{"id": "a", "question": "12:30 :x %", "answer": "9"}]


@pytest.mark.parametrize(
    ("queries", "said", "remedy"),
    [
        (_queries("SELECT nothing FROM faq"), "nothing", "mend the query"),
        (_queries("SELECT id, id FROM faq"), "column id twice", "name every column"),
        (_queries("CREATE TABLE other (id INTEGER)"), "read", "mend the query"),
        (_queries("SELECT id FROM faq", "changed"), "the query gives id", "select that column too"),
        (_queries("SELECT id, id = 1 AS b, '' AS a FROM faq WHERE id > 9"), "no records", "mend"),
    ],
)
def test_what_is_wrong_with_a_query_is_said_without_the_password(
    database: Database, queries: dict[str, Any], said: str, remedy: str
) -> None:
    with pytest.raises(NightloomError) as caught:
        database.night(**queries)

    assert said in caught.value.message
    assert remedy in caught.value.remedy
    assert PASSWORD not in str(caught.value)
    assert not database.raw.exists()


def test_times_with_a_zone_are_compared_as_times(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlalchemy.make_url(server).set(password=PASSWORD)
    monkeypatch.setenv(VARIABLE, url.render_as_string(hide_password=False))
    database = Database(read_url(None, VARIABLE), tmp_path / "raw")
    database.do(
        "DROP TABLE IF EXISTS zoned",
        "ALTER DATABASE postgres SET timezone TO 'Asia/Seoul'",
        "CREATE TABLE zoned (id BIGINT, question TEXT, answer TEXT, at TIMESTAMPTZ, key UUID)",
        "INSERT INTO zoned VALUES "
        "(4000000000, 'a?', 'b', '2026-01-01 00:00+00', gen_random_uuid())",
    )
    query = _queries("SELECT id, question, answer, at, key FROM zoned", "at")
    intake = database.night(**query)
    database.do("INSERT INTO zoned VALUES (5, 'c?', 'd', '2026-01-01 00:30+00', NULL)")

    assert intake is not None
    assert intake.source_updated == "2026-01-01T00:00:00+00:00"
    assert database.night(**query) is not None
    assert [row["id"] for row in database.rows()] == ["5"]
    big = _queries("SELECT id, question, answer FROM zoned", "id")
    assert database.night(**big) is not None
    assert database.night(**big) is None


def test_the_password_stands_nowhere(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlalchemy.make_url(server).set(password=PASSWORD)
    monkeypatch.setenv(VARIABLE, url.render_as_string(hide_password=False))
    raw = tmp_path / "raw"
    one = _queries("SELECT 'a?' AS question, 'b' AS answer")
    assert take_in(_params(**one), raw, NOW, accepted=raw).intake is not None
    kept = b"".join(path.read_bytes() for path in raw.rglob("*") if path.is_file())
    assert b"s3cr3t" not in kept

    wrong = url.set(password="0th3r:s3cr3t", username="nobody")
    monkeypatch.setenv(VARIABLE, wrong.render_as_string(hide_password=False))
    with pytest.raises(ConfigError, match="authentication failed") as caught:
        take_in(_params(**one), raw, NOW, accepted=raw)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("options", ["password=s3cr3t", "odbc_connect=PWD%3Ds3cr3t%3BUID%3Dme"])
def test_a_password_that_a_database_repeats_is_masked(
    options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"sqlite:///:memory:?{options}")
    with pytest.raises(ConfigError, match=r"\*\*\*") as caught:
        take_in(_params(**_queries("SELECT s3cr3t")), Path("none"), NOW, accepted=Path("none"))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "value", "said"),
    [
        ({"url": "postgresql://me:s3cr3t@host/db", "url_variable": None}, None, "holds a password"),
        ({"url": "mssql://?odbc_connect=PWD%3Ds3cr3t", "url_variable": None}, None, "password"),
        ({}, None, f"variable {VARIABLE} is not set"),
        ({}, "s3cr3t", "no URL of a database"),
        ({}, "nosuch://me:s3cr3t@host/db", "nosuch"),
        ({}, "mysql+pymysql://me:s3cr3t@host/db", "pymysql"),
        ({}, "sqlite:///s3cr3t-not-there/faq.db", "no sqlite file"),
    ],
)
def test_a_url_that_cannot_work_is_named_and_not_shown(
    sql: dict[str, Any], value: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    with pytest.raises((ConfigError, DataError), match=said) as caught:
        take_in(_params(**sql), Path("none"), NOW, accepted=Path("none"))

    if "sqlite" not in str(value):
        assert "s3cr3t" not in str(caught.value)
    assert not Path("none").exists()


def test_a_since_column_of_two_types_is_named(database: Database) -> None:
    if database.url.get_backend_name() != "sqlite":
        pytest.skip("a column of two types exists in sqlite alone")
    database.do("CREATE TABLE odd (id INTEGER, at)", "INSERT INTO odd VALUES (1, 5), (2, 'x')")
    with pytest.raises(DataError, match="holds both int and str"):
        database.night(**_queries("SELECT id, at FROM odd", "at"))


_CHILD = """
import sys
from pathlib import Path
from tests.benchmarks._memory import most_megabytes
from tests.unit.ingestion.test_sql import NOW, _params, _queries
from tasks.ingestion.intakes import take_in
QUERY = ("SELECT n AS id, 'What is it?' AS question, repeat('x', 12000) AS answer "
         "FROM generate_series(1, {}) AS n")
folder = Path(sys.argv[1])
take_in(_params(**_queries(QUERY.format(100))), folder / "few", NOW, accepted=folder)
start = most_megabytes()
taken = take_in(_params(**_queries(QUERY.format(10_000))), folder / "many", NOW, accepted=folder)
print(taken.intake.records, round(most_megabytes() - start))
"""


def test_a_result_of_120_mb_is_never_held(
    server: str, tmp_path: Path, tidy_environment: Callable[[], dict[str, str]]
) -> None:
    url = sqlalchemy.make_url(server).set(password=PASSWORD)
    variables = {VARIABLE: url.render_as_string(hide_password=False)}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        env=tidy_environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    records, megabytes = map(int, done.stdout.split())
    assert records == 10_000
    assert megabytes < 60


@pytest.fixture
def tidy_environment() -> Callable[[], dict[str, str]]:
    return lambda: os.environ | {"PYTHONPATH": str(Path.cwd())}
