"""A checkout's own MLflow store when the checkout is copied or moved: it follows, or is refused."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.doctor import _tracking
from flows.environment import find_stores
from flows.mlflow_store import own_store
from flows.model_server import ModelServer
from flows.servers import Services, _mlflow_command, mlflow_secret
from flows.shutdown import Keeper, stop_services
from tasks.orchestration.guarded_server import SECRET, basic_header
from tasks.orchestration.tracking import Tracker
from tasks.registry.client import Registry
from tasks.services.loopback import answers, free_port
from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml
from tests.builders.registry import Shop

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_stores_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


@pytest.fixture(scope="module")
def template(reigned_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a store in which something lies at every kind of location."""
    root = tmp_path_factory.mktemp("template") / "checkout"
    shop = Shop.open(root / ".nightloom", reigned_store)
    for name in ("prefect.yaml", "dvc.yaml"):
        (root / name).touch()
    shutil.copytree("params", root / "params")
    release = root / "params" / "release.yaml"
    content = read_yaml(release)
    content["retention"] |= {"archived": 0, "days": 0, "rollback_targets": 1}
    release.write_text(yaml.safe_dump(content))
    for number in range(3, 6):
        shop.release(f"bundle {number}")
    client = shop.client
    ours = client.get_experiment_by_name("nightloom").experiment_id
    client.create_logged_model(ours, name="logged")
    place = TraceLocation.from_experiment_id(ours)
    client._tracing_client.start_trace(TraceInfo("tr-1", place, 0, TraceState.OK))
    theirs = client.create_experiment("theirs", artifact_location=(root / "mlruns" / "1").as_uri())
    client.create_run(theirs)
    return root


@pytest.fixture
def original(template: Path, tmp_path: Path) -> Path:
    """A checkout of its own, whose store names it."""
    root = tmp_path / "original"
    shutil.copytree(template, root)
    own_store(root)
    return root


def copied(checkout: Path, name: str) -> Path:
    target = checkout.parent / name
    shutil.copytree(checkout, target, symlinks=True)
    return target


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(checkout: Path, query: str) -> list[str]:
    with closing(sqlite3.connect(checkout / ".nightloom" / "mlflow.db")) as connection:
        return [row[0] for row in connection.execute(query)]


def change(checkout: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(checkout / ".nightloom" / "mlflow.db")) as connection:
        assert connection.execute(statement, values).rowcount
        connection.commit()


def named_paths(checkout: Path) -> list[str]:
    """Every text of the whole database in which a folder's path stands, as text or in a URI."""
    found = []
    with closing(sqlite3.connect(checkout / ".nightloom" / "mlflow.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            for row in connection.execute(f"SELECT * FROM {table}"):
                found += [item for item in row if isinstance(item, str) and "/" in item]
    return found


def versions(checkout: Path) -> list[str]:
    """What lies in the bundle of each version."""
    registry = Registry(find_stores(checkout))
    downloads = checkout / ".nightloom" / "downloads"
    return [
        (registry.bundle("adapter", number, downloads) / "settings.json").read_text()
        for number in registry.numbers("adapter")
    ]


ALL = ["one", "two", "bundle 3", "bundle 4", "bundle 5"]


def test_a_moved_checkout_names_its_old_place_nowhere(original: Path) -> None:
    moved = original.rename(original.with_name("moved"))
    assert sum("/original/" in text for text in named_paths(moved)) > 20
    [trace] = rows(moved, "SELECT value FROM trace_tags WHERE key = 'mlflow.artifactLocation'")
    assert "/original/" in trace
    assert versions(moved) == ALL
    assert [text for text in named_paths(moved) if "/original/" in text] == []
    assert not original.exists()
    assert Shop(moved / ".nightloom").faults() == ()
    back = moved.rename(original)
    assert versions(back) == ALL
    assert [text for text in named_paths(back) if "/moved/" in text] == []


def test_a_night_in_a_copy_writes_into_the_copy(original: Path) -> None:
    before, copy = files(original), copied(original, "copy")
    find_stores(copy)
    shop = Shop(copy / ".nightloom")
    shop.release("of the copy")
    tracker = Tracker(find_stores(copy))
    run = tracker.begin_night("night", {})
    tracker.log_files(run, [copy / "params" / "release.yaml"], "versions")
    written = copy / ".nightloom" / "artifacts" / run.run_id / "artifacts" / "versions"
    assert (written / "release.yaml").exists()
    assert versions(copy) == [*ALL, "of the copy"]
    assert files(original) == before
    assert versions(original) == ALL


def test_prune_in_a_copy_deletes_the_copys_versions(original: Path) -> None:
    before, copy = files(original), copied(original, "copy")
    done = CliRunner().invoke(app, ["prune", "--yes", "--root", str(copy)])
    assert done.exit_code == 0, done.output
    assert len(versions(copy)) < len(ALL)
    assert len(list((copy / ".nightloom" / "artifacts").glob("*/artifacts/models/adapter"))) == (
        len(versions(copy))
    )
    assert files(original) == before


@pytest.mark.parametrize("name", ["a b", "a#b", "a%b", "a%20b", "밤 베틀", "it's"])
def test_a_checkout_may_be_called_anything(name: str, original: Path) -> None:
    before, copy = files(original), copied(original, name)
    assert versions(copy) == ALL
    again = copied(copy, f"{name} 2")
    assert versions(again) == ALL
    registry = Registry(find_stores(again))
    registry.delete(registry.version("adapter", 3))
    assert len(versions(again)) == len(ALL) - 1
    assert versions(copy) == ALL
    assert files(original) == before


def test_a_copy_may_lie_inside_of_the_original_and_the_original_inside_of_a_copy(
    original: Path,
) -> None:
    inner = copied(original, "aside").rename(original / "inner")
    before = files(original / ".nightloom")
    assert versions(inner) == ALL
    assert [text for text in named_paths(inner) if "/original/.nightloom" in text] == []
    assert files(original / ".nightloom") == before
    outer = original.parent
    shutil.copytree(inner / ".nightloom", outer / ".nightloom")
    assert versions(outer) == ALL
    assert [text for text in named_paths(outer) if "/inner/" in text] == []
    assert versions(inner) == versions(original) == ALL


def test_a_copy_of_a_copy_that_was_mended_in_part_is_mended_whole(original: Path) -> None:
    copy = copied(original, "copy")
    change(
        copy,
        "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)",
        "/original/",
        "/copy/",
    )
    shutil.rmtree(original)
    assert versions(copy) == ALL
    assert [text for text in named_paths(copy) if "/original/" in text] == []


def test_a_checkout_that_is_reached_by_a_link_is_the_same_checkout(original: Path) -> None:
    before = files(original)
    link = original.with_name("link")
    link.symlink_to(original)
    assert versions(link) == ALL
    assert files(original) == before


def test_locations_that_are_not_the_checkouts_stay(original: Path) -> None:
    places = ["s3://bucket/nights", "mlflow-artifacts:/1", "file:///mnt/nfs/theirs"]
    client = MlflowClient(find_stores(original).tracking_uri)
    for number, place in enumerate(places):
        client.create_experiment(f"elsewhere {number}", artifact_location=place)
    client.create_model_version("nightloom-adapter", source="s3://bucket/model")
    client.create_model_version("nightloom-adapter", source="file:///mnt/nfs/model")
    change(
        original,
        "UPDATE experiments SET artifact_location = ? WHERE name = 'nightloom-ledger'",
        "s3://bucket/ledger",
    )
    moved = original.rename(original.with_name("moved"))
    find_stores(moved)
    found = rows(moved, "SELECT artifact_location FROM experiments")
    assert {*places, "s3://bucket/ledger"} <= set(found)
    sources = rows(moved, "SELECT source FROM model_versions")
    assert {"s3://bucket/model", "file:///mnt/nfs/model"} <= set(sources)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "UPDATE experiments SET artifact_location = ? || '/x' WHERE name = 'nightloom'",
            "experiment nightloom",
        ),
        ("UPDATE runs SET artifact_uri = ? || '/' || run_uuid WHERE rowid = 2", "run "),
        ("UPDATE logged_models SET artifact_location = ? || '/m'", "model m-"),
        (
            "UPDATE model_versions SET source = ? || '/' || run_id || '/artifacts/models/adapter' "
            "WHERE version = 3",
            "version 3 of nightloom-adapter",
        ),
        (
            "UPDATE model_versions SET storage_location = ? || '/m' WHERE version = 4",
            "version 4 of nightloom-adapter",
        ),
    ],
)
def test_a_location_of_ours_outside_of_the_checkout_is_refused(
    statement: str, what: str, original: Path
) -> None:
    change(original, statement, (original.parent / "elsewhere").as_uri())
    moved = original.rename(original.with_name("moved"))
    before = files(moved)
    with pytest.raises(ConfigError, match=rf"^{what}.* in .* at file:.*/elsewhere/") as caught:
        find_stores(moved)
    assert "MLFLOW_TRACKING_URI" in caught.value.remedy
    assert files(moved) == before
    finding = _tracking(moved)
    assert not finding.passed
    assert "/elsewhere/" in finding.found


def test_a_folder_that_a_link_leads_to_is_the_checkouts_own(original: Path) -> None:
    place = "UPDATE experiments SET artifact_location = ? WHERE name = 'nightloom'"
    change(original, place, (original.parent / "disk").as_uri())
    with pytest.raises(ConfigError, match="symbolic link"):
        find_stores(original)
    (original.parent / "disk").symlink_to(original / ".nightloom" / "artifacts")
    find_stores(original)
    [found] = rows(original, "SELECT artifact_location FROM experiments WHERE name = 'nightloom'")
    assert found == (original / ".nightloom" / "artifacts").as_uri()


def test_a_database_that_came_without_its_artifacts_is_refused(original: Path) -> None:
    before, alone = files(original), original.with_name("alone")
    (alone / ".nightloom").mkdir(parents=True)
    shutil.copyfile(original / ".nightloom" / "mlflow.db", alone / ".nightloom" / "mlflow.db")
    said = rf"expected {alone}/.nightloom/artifacts/.* without .nightloom/artifacts"
    with pytest.raises(ConfigError, match=said):
        find_stores(alone)
    shutil.copytree(original / ".nightloom" / "artifacts", alone / ".nightloom" / "artifacts")
    assert versions(alone) == ALL
    assert files(original) == before


def test_a_store_in_its_place_is_not_written(original: Path) -> None:
    before = files(original)
    find_stores(original)
    assert files(original) == before


def test_processes_that_open_a_moved_store_at_once_agree(original: Path) -> None:
    moved = original.rename(original.with_name("moved"))
    code = "import sys; from flows.mlflow_store import *; own_store(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(moved)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: subprocess.run(command, check=False), range(4)))
    assert [item.returncode for item in done] == [0, 0, 0, 0]
    assert versions(moved) == ALL
    assert [text for text in named_paths(moved) if "/original/" in text] == []


def test_a_store_that_somebody_writes_to_is_waited_for(original: Path) -> None:
    moved = original.rename(original.with_name("moved"))
    locked, let_go = threading.Event(), []

    def hold() -> None:
        with closing(sqlite3.connect(moved / ".nightloom" / "mlflow.db")) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            locked.set()
            time.sleep(1)
            let_go.append(time.monotonic())
            connection.rollback()

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait()
    own_store(moved)
    assert time.monotonic() > let_go[0]
    holder.join()
    assert versions(moved) == ALL


def test_a_store_in_the_making_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".nightloom").mkdir()
    for statement in ("SELECT 1", "CREATE TABLE experiments (experiment_id INTEGER)"):
        with closing(sqlite3.connect(tmp_path / ".nightloom" / "mlflow.db")) as connection:
            connection.execute(statement)
            connection.commit()
        own_store(tmp_path)


def test_a_store_of_another_mlflow_is_refused(original: Path) -> None:
    with closing(sqlite3.connect(original / ".nightloom" / "mlflow.db")) as connection:
        connection.execute("ALTER TABLE logged_models RENAME COLUMN artifact_location TO place")
        connection.commit()
    with pytest.raises(ConfigError, match=r"expected the column logged_models.artifact_location"):
        find_stores(original)


def test_a_damaged_store_is_told(original: Path) -> None:
    (original / ".nightloom" / "mlflow.db").write_bytes(b"no database at all, but long enough")
    with pytest.raises(ConfigError, match="can't be used"):
        find_stores(original)


def test_a_store_that_the_user_names_is_never_touched(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = original.rename(original.with_name("moved"))
    before = files(moved)
    uri = f"sqlite:///{moved / '.nightloom' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert (find_stores(moved).tracking_uri, find_stores(moved).artifacts) == (uri, None)
    assert files(moved) == before


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """One that stands for what keeps the original's servers."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.wait()


def test_a_copy_takes_the_originals_servers_for_none_of_its_own(
    original: Path, process: "subprocess.Popen[bytes]"
) -> None:
    kept = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    address = "http://127.0.0.1:9"
    Services(**kept, prefect=address, mlflow=address).write(original)
    ModelServer(**kept, address=address, models=["adapter"]).write(original)
    Keeper(**kept).write(original)
    copy = copied(original, "copy")
    assert Services.read(copy) is None
    assert ModelServer.read(copy) is None
    assert find_stores(copy).tracking_uri.startswith("sqlite:")
    assert not stop_services(copy, print)
    assert process.poll() is None
    moved = original.rename(original.with_name("moved"))
    assert find_stores(moved).tracking_uri == address
    assert ModelServer.read(moved) is not None
    stopper = threading.Thread(target=process.wait)
    stopper.start()
    assert stop_services(moved, print)


def test_the_server_of_a_moved_checkout_gives_what_lies_there(original: Path) -> None:
    moved = original.rename(original.with_name("moved"))
    port = free_port()
    command = _mlflow_command(moved, port)
    [run] = rows(moved, "SELECT run_id FROM model_versions WHERE version = 3")
    path = "models/adapter/artifacts/bundle/settings.json"
    secret = mlflow_secret(moved)
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", SECRET: secret}
    server = subprocess.Popen(command, cwd=moved, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not answers(f"{address}/health"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        query = f"{address}/get-artifact?run_uuid={run}&path={path}"
        asked = urllib.request.Request(query, headers=basic_header(secret))
        with urllib.request.urlopen(asked) as response:
            assert response.read() == b"bundle 3"
    finally:
        server.terminate()
        server.wait()
