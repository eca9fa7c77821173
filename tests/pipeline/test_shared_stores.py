"""Two machines that share S3 and PostgreSQL: the second one runs no stage that the first one ran.

The night of the first machine is the session's; here its data are pushed to a bucket.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy

from tasks.stage.params import read_yaml
from tests.builders.clones import AUTOMATIC, MILD, UNTIMED, BuiltClone, git, nightloom, set_params
from tests.builders.postgres import PASSWORD, running_postgres
from tests.builders.s3 import BUCKET, Bucket, s3_server
from tests.fingerprint.clone import Clone

pytestmark = [pytest.mark.night, pytest.mark.slow]


def tiny() -> list[str]:
    """Return the values of the preset `tiny`, to be written into a clone's own params."""
    lines = Path("params/presets/tiny.yaml").read_text(encoding="utf-8").splitlines()
    return [line.replace(": ", "=", 1) for line in lines if line and not line.startswith("#")]


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

    def rows(self, query: str) -> list[Any]:
        with self.database.connect() as connection:
            return list(connection.exec_driver_sql(query).fetchall())


def with_password(given: str) -> str:
    """Return a URL of the server's that names no driver, as administrators hand it out."""
    return given.replace("postgres@", f"postgres:{quote(PASSWORD, safe='')}@")


@pytest.fixture(scope="module")
def second(built: BuiltClone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Second]:
    """The night of a fresh clone elsewhere, after the first machine pushed its own."""
    folder = tmp_path_factory.mktemp("shared")
    with s3_server(folder / "s3.log") as bucket, running_postgres() as postgres:
        url = with_password(postgres)
        environment = bucket.environment | {
            "MLFLOW_TRACKING_URI": url,
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{BUCKET}/mlflow",
        }
        first = built.copy(folder / "first")
        with_remote(first, bucket)
        done = nightloom(first, "run", "--preset", "tiny", "--json", **bucket.environment)
        assert json.loads(done.stdout)["verdict"] == "unchanged", done.stderr[-3000:]
        [made] = (first / ".nightloom" / "workspaces").iterdir()
        origin = Clone.make(Path(), folder / "origin").root
        set_params(origin, *tiny(), *MILD, AUTOMATIC, UNTIMED)
        with_remote(origin, bucket)
        (origin / "data").mkdir(exist_ok=True)
        shutil.copy2(made / "data" / "raw.dvc", origin / "data" / "raw.dvc")
        git(origin, "add", "--all")
        git(origin, "commit", "--quiet", "-m", "what the first machine took in")
        elsewhere = folder / "elsewhere"
        git(folder, "clone", "--quiet", str(origin), str(elsewhere))
        done = nightloom(elsewhere, "run", "--json", **environment)
        assert done.stdout, done.stderr[-3000:]
        engine = sqlalchemy.create_engine(url.replace("ql:", "ql+psycopg:"))
        yield Second(json.loads(done.stdout), engine, bucket, elsewhere)
        engine.dispose()


def test_the_second_machine_runs_no_stage(second: Second) -> None:
    states = {stage["name"]: stage["state"] for stage in second.report["stages"]}
    assert list(states) == list(read_yaml(second.checkout / "dvc.yaml")["stages"])
    assert set(states.values()) == {"restored"}, second.report


def test_it_takes_no_row_in_again(second: Second) -> None:
    folders = (second.checkout / "data" / "raw" / "intakes").iterdir()
    assert len(list(folders)) == 1


def test_mlflow_keeps_its_numbers_in_postgresql_and_its_files_in_s3(second: Second) -> None:
    places = dict(second.rows("SELECT name, artifact_location FROM experiments"))
    assert places["nightloom"] == places["nightloom-ledger"] == f"s3://{BUCKET}/mlflow"
    found = second.rows("SELECT source FROM model_versions WHERE name != 'nightloom-answer'")
    sources = [row[0] for row in found]
    assert len(sources) == 2  # beside the prompt, which has no files
    assert all(source.startswith(f"s3://{BUCKET}/mlflow/") for source in sources)
    assert any(key.endswith("adapter_model.safetensors") for key in second.bucket.keys("mlflow/"))
    assert not list(second.checkout.glob("**/mlruns"))
    assert not (second.checkout / ".nightloom" / "artifacts").exists()


def test_the_version_was_served_from_there_and_decided_on(second: Second) -> None:
    assert second.report["verdict"] in ("promoted", "partly_promoted")
