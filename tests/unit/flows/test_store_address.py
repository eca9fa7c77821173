"""No password of the user's MLflow store stands where others could read it."""

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from flows.cli.doctor import _tracking, print_checks
from flows.environment import find_stores
from flows.store_address import STORE, STORE_PASSWORD, STORE_USER, keep_password
from tasks.services import stores
from tasks.services.databases import with_psycopg
from tasks.services.stores import call_with_retries
from tasks.stage.errors import ConfigError, Failure, without_password

SECRET = "s3:cr/et@ 100%"
QUOTED = "s3%3Acr%2Fet%40%20100%25"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in (STORE, STORE_USER, STORE_PASSWORD):
        os.environ.pop(name, None)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_servers_password_goes_where_mlflow_reads_it(tmp_path: Path, scheme: str) -> None:
    os.environ[STORE] = f"{scheme}://me:{QUOTED}@mlflow.example:8080/a/path"
    keep_password(tmp_path)
    assert os.environ[STORE] == f"{scheme}://mlflow.example:8080/a/path"
    assert (os.environ[STORE_USER], os.environ[STORE_PASSWORD]) == ("me", SECRET)
    before = dict(os.environ)
    keep_password(tmp_path)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://me:{QUOTED}@db.example:5433/runs?sslmode=require",
        f"postgresql+psycopg://me:{QUOTED}@db.example:5433/runs?sslmode=require",
        f"postgres://me@db.example:5433/runs?sslmode=require&password={QUOTED}",
    ],
)
def test_postgresqls_password_goes_into_a_file_that_the_address_names(
    tmp_path: Path, uri: str
) -> None:
    os.environ[STORE] = uri
    keep_password(tmp_path)
    found = urlsplit(os.environ[STORE])
    assert found.scheme == uri.partition(":")[0]
    assert (found.netloc, found.path) == ("me@db.example:5433", "/runs")
    query = parse_qs(found.query)
    assert query.keys() == {"sslmode", "passfile"}
    path = Path(query["passfile"][0])
    assert path.read_text() == "*:*:*:*:s3\\:cr/et@ 100%\n"
    assert path.stat().st_mode & 0o777 == 0o600
    before = os.environ[STORE]
    keep_password(tmp_path)
    assert os.environ[STORE] == before


@pytest.mark.parametrize(
    "uri",
    [
        "", "sqlite:////a/place/mlflow.db", "http://127.0.0.1:5000", "databricks",
        "postgresql://me@db.example/runs", "mysql://me:word@db.example/runs",
    ],
)  # fmt: skip
def test_any_other_address_stays(tmp_path: Path, uri: str) -> None:
    os.environ[STORE] = uri
    keep_password(tmp_path)
    assert os.environ[STORE] == uri
    assert STORE_PASSWORD not in os.environ


@pytest.mark.parametrize(
    "uri",
    [
        "mysql+pymysql://me:hunter2@127.0.0.1:9/runs", "postgresql://me@127.0.0.1:9/?password=hunter2",
        "mssql://me:hunter2@x/y?Token=hunter2", "foo://me:hunter2@bar",
    ],
)  # fmt: skip
def test_no_text_shows_the_password_of_an_address(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRY_SECONDS", 0.0)
    assert "hunter2" not in without_password(f"at {uri}, and so on")
    assert "hunter2" not in str(ConfigError(f"{uri} is away", f"mend {uri}"))
    assert "hunter2" not in Failure.of(ValueError(f"can't read {uri}")).message

    class AwayError(Exception):
        error_code = "TEMPORARILY_UNAVAILABLE"

    def call() -> None:
        raise AwayError(f"no answer from {uri}")

    with pytest.raises(ConfigError) as caught:
        call_with_retries(call, uri, seconds=0.0)
    assert "hunter2" not in str(caught.value)
    assert "me" in str(caught.value)  # the rest of the address is shown
    os.environ[STORE] = uri
    (tmp_path / ".nightloom").mkdir()
    assert find_stores(tmp_path).tracking_uri == with_psycopg(uri)
    console = Console(width=400, record=True)
    print_checks(console, [_tracking(tmp_path)])
    shown = console.export_text()
    assert "bad  mlflow" in shown
    assert "hunter2" not in shown
