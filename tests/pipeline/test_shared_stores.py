"""Two machines that share S3 and PostgreSQL: the second one runs no stage that the first one ran.

The night of the first machine is the session's; here its data are pushed to a bucket.
"""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy

from tests.builders.clones import AUTOMATIC, MILD, BuiltClone, nightloom, set_params
from tests.builders.postgres import PASSWORD, running_postgres
from tests.builders.s3 import BUCKET, Bucket, s3_server
from tests.fingerprint.clone import Clone

pytestmark = [pytest.mark.night, pytest.mark.slow]


def tiny() -> list[str]:
    """Return the values of the preset `tiny`, to be written into a clone's own params."""
    lines = Path("params/presets/tiny.yaml").read_text(encoding="utf-8").splitlines()
    return [line.replace(": ", "=", 1) for line in lines if line and not line.startswith("#")]


def git(root: Path, *words: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *author, *words], cwd=root, check=True, capture_output=True)


def with_remote(root: Path, bucket: Bucket) -> None:
    """Name the bucket as DVC's remote, as `dvc remote add --default` does."""
    url = f"s3://{BUCKET}/dvc"
    with (root / ".dvc" / "config").open("a", encoding="utf-8") as config:
        config.write(f"    remote = shared\n['remote \"shared\"']\n    url = {url}\n")
        config.write(f"    endpointurl = {bucket.endpoint}\n")


@dataclass(frozen=True)
class Second:
    """What the second machine's night left, and the stores that it was given."""

    report: dict[str, Any]
    database: sqlalchemy.Engine
    bucket: Bucket
    checkout: Path
    environment: dict[str, str]

    def rows(self, query: str) -> list[Any]:
        with self.database.connect() as connection:
            return list(connection.exec_driver_sql(query).fetchall())


def databases(given: str) -> dict[str, str]:
    """Return what lets Prefect and MLflow use a database each: the URL names no driver."""
    url = given.replace("postgres@", f"postgres:{quote(PASSWORD, safe='')}@")
    place = sqlalchemy.make_url(url.replace("postgresql:", "postgresql+psycopg:"))
    engine = sqlalchemy.create_engine(place, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in ("mlflow", "prefect"):
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return {name: url.replace("/postgres?", f"/{name}?") for name in ("mlflow", "prefect")}


@pytest.fixture(scope="module")
def second(built: BuiltClone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Second]:
    """The night of a fresh clone elsewhere, after the first machine pushed its own."""
    folder = tmp_path_factory.mktemp("shared")
    with s3_server(folder / "s3.log") as bucket, running_postgres() as postgres:
        urls = databases(postgres)
        environment = bucket.environment | {
            "MLFLOW_TRACKING_URI": urls["mlflow"],
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{BUCKET}/mlflow",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": urls["prefect"],
        }
        first = built.copy(folder / "first")
        with_remote(first, bucket)
        done = nightloom(first, "run", "--preset", "tiny", "--json", **bucket.environment)
        assert json.loads(done.stdout)["verdict"] == "unchanged", done.stderr[-3000:]
        [made] = (first / ".nightloom" / "workspaces").iterdir()
        origin = Clone.make(Path(), folder / "origin").root
        set_params(origin, *tiny(), *MILD, AUTOMATIC)
        with_remote(origin, bucket)
        shutil.copy2(made / "data" / "raw.dvc", origin / "data" / "raw.dvc")
        git(origin, "add", "--all")
        git(origin, "commit", "--quiet", "-m", "what the first machine took in")
        elsewhere = folder / "elsewhere"
        git(folder, "clone", "--quiet", str(origin), str(elsewhere))
        done = nightloom(elsewhere, "run", "--json", **environment)
        assert done.stdout, done.stderr[-3000:]
        engine = sqlalchemy.create_engine(urls["mlflow"].replace("ql:", "ql+psycopg:"))
        yield Second(json.loads(done.stdout), engine, bucket, elsewhere, environment)
        engine.dispose()


def test_the_second_machine_runs_no_stage(second: Second) -> None:
    states = {stage["name"]: stage["state"] for stage in second.report["stages"]}
    assert len(states) == 8
    assert set(states.values()) == {"restored"}, second.report


def test_it_takes_no_row_in_again(second: Second) -> None:
    folders = (second.checkout / "data" / "raw" / "intakes").iterdir()
    assert len(list(folders)) == 1


def test_mlflow_keeps_its_numbers_in_postgresql_and_its_files_in_s3(second: Second) -> None:
    places = dict(second.rows("SELECT name, artifact_location FROM experiments"))
    assert places["nightloom"] == places["nightloom-ledger"] == f"s3://{BUCKET}/mlflow"
    sources = [row[0] for row in second.rows("SELECT source FROM model_versions")]
    assert len(sources) == 2
    assert all(source.startswith(f"s3://{BUCKET}/mlflow/") for source in sources)
    assert any(key.endswith("adapter_model.safetensors") for key in second.bucket.keys("mlflow/"))
    assert not list(second.checkout.glob("**/mlruns"))
    assert not (second.checkout / ".nightloom" / "artifacts").exists()


def test_the_version_was_served_from_there_and_decided_on(second: Second) -> None:
    assert second.report["verdict"] in ("promoted", "partly promoted", "partly_promoted")


def test_prefect_keeps_its_runs_in_postgresql(second: Second) -> None:
    url = second.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    engine = sqlalchemy.create_engine(url.replace("ql:", "ql+psycopg:"))
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT state_type FROM flow_run WHERE name LIKE 'nightly%'"
        )
        assert [row[0] for row in found] == ["COMPLETED"]
    engine.dispose()
    own = second.checkout / ".nightloom" / "prefect" / "prefect.db"
    if own.exists():
        with closing(sqlite3.connect(own)) as connection:
            assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
