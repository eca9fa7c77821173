"""`nightloom serve` on a real MLflow registry: aliases move, it fails, parents are killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow.tracking import MlflowClient

from flows.answers import ask_model
from flows.model_server import AliasWatcher, ModelServer, ServeOptions, _new_orders, serve_versions
from flows.servers import Services
from tasks.records.schema import ServedModel
from tasks.registry.aliases import choose_version
from tasks.services import stores
from tasks.services.stores import SERVED
from tasks.serving.access import Protection
from tasks.serving.protocol import NotServing, ServeVersion
from tasks.stage.errors import ConfigError, GateError
from tests.builders.serving import Bundles
from tests.builders.uploads import add_version

pytestmark = pytest.mark.slow

NAME = "nightloom-adapter"
CLIENT = httpx.Client(trust_env=False)  # its certificates are read once, not at each look
QUESTION = "What does mod.f1 do?"


@dataclass(frozen=True)
class Project:
    """A checkout with nothing but what serving needs, and its registry."""

    root: Path
    client: MlflowClient

    def point(self, alias: str, version: int) -> None:
        self.client.set_registered_model_alias(NAME, alias, str(version))

    def answer(self, alias: str | None = None) -> Any:
        return ask_model(self.root, QUESTION, "adapter", alias, [])


@pytest.fixture(scope="module")
def project(
    bundles: Bundles, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """Versions 1 and 2 are the bundles; `staging` and `candidate` name 1 and 2."""
    root = tmp_path_factory.mktemp("project")
    for name in ("prefect.yaml", "dvc.yaml"):
        (root / name).touch()
    (root / "params").mkdir()
    for name in ("paths.yaml", "serving.yaml", "curation.yaml"):
        shutil.copy2(Path("params") / name, root / "params")
    (root / ".nightloom").mkdir()
    (root / ".nightloom" / "models").symlink_to(bundles.store)
    shutil.copyfile(empty_store, root / ".nightloom" / "mlflow.db")
    client = MlflowClient(f"sqlite:///{root / '.nightloom' / 'mlflow.db'}")
    client.create_registered_model(NAME)
    for version, folder in bundles.folders.items():
        model = root / f"model-{version}"
        shutil.copytree(folder, model / "artifacts" / "bundle")
        add_version(client, "adapter", model, root / ".nightloom" / "artifacts")
    made = Project(root, client)
    made.point("staging", 1)
    made.point("candidate", 2)
    return made


@pytest.fixture(autouse=True)
def _no_stores_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def start(project: Project, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "flows.cli", "serve", "--root", str(project.root)]
    return subprocess.Popen(
        [*command, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
    )


def options(model: ServedModel) -> ServeOptions:
    return ServeOptions([model], None, "127.0.0.1", 0, Protection(demands_key=True))


def bearer(serving: ModelServer) -> dict[str, str]:
    assert serving.key_file is not None
    return {"authorization": f"Bearer {serving.key_file.read_text().strip()}"}


def health(project: Project) -> Any:
    serving = ModelServer.read(project.root)
    if serving is None:
        return {}
    try:
        return CLIENT.get(f"{serving.address}/health", headers=bearer(serving)).json()
    except httpx.HTTPError:
        return {}


def wait(project: Project, holds: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 240
    while not holds(found := health(project)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def version_of(found: Any) -> Any:
    return found.get("models", {}).get("adapter", {}).get("version")


@pytest.fixture(scope="module")
def running(project: Project) -> Iterator["subprocess.Popen[str]"]:
    process = start(project, "--log")
    try:
        wait(project, lambda found: version_of(found) == 1)
        yield process
    finally:
        process.kill()
        process.wait()


def test_staging_is_served_where_nothing_is_in_production(
    project: Project, running: "subprocess.Popen[str]"
) -> None:
    found = health(project)
    assert found["models"]["adapter"]["alias"] == "staging"
    assert found["registry"] == {"error": None}


def test_ask_uses_the_server_and_says_so(
    project: Project, running: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy is asked on the way, whatever the environment says; nor is the key in a process."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    answer = project.answer()
    serving = ModelServer.read(project.root)
    assert serving is not None
    assert CLIENT.get(f"{serving.address}/v1/models").status_code == 401
    key = bearer(serving)["authorization"].removeprefix("Bearer ")
    for process in [*psutil.Process(running.pid).children(recursive=True), psutil.Process()]:
        assert key not in " ".join(process.cmdline())
        assert key not in process.environ().values()
    assert (answer.version, answer.alias, answer.server) == (1, "staging", serving.address)
    assert answer.passages
    with pytest.raises(ConfigError, match=r"refused: .*no passage has the source"):
        ask_model(project.root, QUESTION, "adapter", None, ["source=nowhere"])


def test_with_log_it_says_at_start_what_is_kept_and_keeps_it(
    project: Project, running: "subprocess.Popen[str]"
) -> None:
    assert running.stdout is not None
    key = project.root / ".nightloom" / "private" / "serve-key"
    assert f"KEY is in {key}" in running.stdout.readline()
    assert "kept for 30 days, at most 500 MB, in MLflow's experiment" in running.stdout.readline()
    answer = project.answer()
    wait(project, lambda found: found["log"]["kept"] > 0)
    experiment = project.client.get_experiment_by_name(SERVED)
    traces = project.client.search_traces([experiment.experiment_id])
    assert answer.answer in {
        trace.data.spans[0].outputs["choices"][0]["message"]["content"] for trace in traces
    }


def test_another_alias_than_the_server_has_is_answered_by_a_child(
    project: Project, running: "subprocess.Popen[str]"
) -> None:
    answer = project.answer("candidate")
    assert (answer.version, answer.alias, answer.server) == (2, "candidate", None)
    assert answer.answer != project.answer().answer


def test_a_second_server_names_the_first(
    project: Project, running: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(ConfigError, match=f"kept by process {running.pid}"):
        serve_versions(project.root, options("adapter"), print)


def test_a_promotion_is_noticed_and_one_that_cannot_be_loaded_is_told(
    project: Project, running: "subprocess.Popen[str]"
) -> None:
    project.point("production", 2)
    found = wait(project, lambda found: version_of(found) == 2)
    assert found["models"]["adapter"]["alias"] == "production"
    shutil.copytree(project.root / "model-1", project.root / "model-3")
    with (project.root / "model-3" / "artifacts" / "bundle" / "settings.json").open("a") as stream:
        stream.write(" ")
    artifacts = project.root / ".nightloom" / "artifacts"
    add_version(project.client, "adapter", project.root / "model-3", artifacts)
    project.point("production", 3)
    found = wait(project, lambda found: found["models"]["adapter"]["failed"] is not None)
    assert found["models"]["adapter"]["failed"]["version"] == 3
    assert "settings.json" in found["models"]["adapter"]["failed"]["error"]
    assert project.answer().version == 2
    project.point("production", 2)
    wait(project, lambda found: found["models"]["adapter"]["failed"] is None)


def test_while_the_registry_is_down_the_old_version_serves_on(
    project: Project, running: "subprocess.Popen[str]"
) -> None:
    """`nightloom up` says that it keeps the registry, where nothing listens."""
    this = psutil.Process()
    gone = "http://127.0.0.1:9"
    up = Services(pid=this.pid, started=this.create_time(), prefect=gone, mlflow=gone)
    up.write(project.root)
    begun = time.monotonic()
    try:
        found = wait(project, lambda found: found["registry"]["error"] is not None)
        assert time.monotonic() - begun < stores.RETRY_SECONDS / 2  # it is told soon
        assert version_of(found) == 2
        assert project.answer().version == 2
    finally:
        Services.remove(project.root)
    wait(project, lambda found: found["registry"]["error"] is None)


def test_when_its_keeper_is_killed_the_server_ends(
    project: Project, running: "subprocess.Popen[str]"
) -> None:
    """Last: the module's server is gone after it."""
    children = psutil.Process(running.pid).children(recursive=True)
    assert children
    running.kill()
    running.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert ModelServer.read(project.root) is None


def test_ctrl_c_ends_a_server_before_it_has_loaded(project: Project) -> None:
    process = start(project)
    wait(project, bool)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped" in said
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_a_registry_that_cannot_be_reached_is_told_not_raised(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(stores, "RETRY_SECONDS", 1.0)
    orders, trouble = _new_orders(AliasWatcher(project.root, ["adapter"], None))
    assert orders == []
    assert trouble


def test_an_order_is_given_once_until_it_fails_or_the_alias_moves(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = AliasWatcher(project.root, ["adapter"], "staging")
    [order] = watch.look()
    assert isinstance(order, ServeVersion)
    assert (order.version, order.alias) == (1, "staging")
    assert watch.look() == []
    watch.failed(NotServing(model="adapter", version=1, still=None, error="full"))
    assert watch.look() == []
    monkeypatch.setattr("flows.model_server._RETRY_SECONDS", -1.0)
    watch.failed(NotServing(model="adapter", version=1, still=None, error="full"))
    assert watch.look() == [order]


def test_one_that_held_erased_rows_and_must_stop_ends_the_server(project: Project) -> None:
    watch = AliasWatcher(project.root, ["adapter"], "staging")
    number = str(project.client.get_model_version_by_alias(NAME, "staging").version)
    _new_orders(watch)
    project.client.set_model_version_tag(NAME, number, "erased", "keep")
    assert _new_orders(watch) == ([], None)
    project.client.set_model_version_tag(NAME, number, "erased", "stop")
    try:
        with pytest.raises(GateError, match=r"release\.erased_champion is stop"):
            _new_orders(watch)
    finally:
        project.client.delete_model_version_tag(NAME, number, "erased")


def test_nothing_is_served_where_nothing_is_registered(
    tmp_path: Path, project: Project, empty_store: Path
) -> None:
    shutil.copytree(project.root / "params", tmp_path / "params")
    (tmp_path / ".nightloom").mkdir()
    shutil.copyfile(empty_store, tmp_path / ".nightloom" / "mlflow.db")
    with pytest.raises(ConfigError, match="no version of the student is named production"):
        serve_versions(tmp_path, options("student"), print)
    assert not (tmp_path / ".nightloom" / "serving.json").exists()


def test_an_alias_in_capitals_is_refused_with_the_one_that_is_meant() -> None:
    aliases = {"production": 3, "candidate": 4}
    assert choose_version(aliases, "adapter") == ("production", 3)
    assert choose_version(aliases, "adapter", "candidate") == ("candidate", 4)
    with pytest.raises(ConfigError, match="ask for production"):
        choose_version(aliases, "adapter", "Production")
    with pytest.raises(ConfigError, match="found aliases: production, candidate"):
        choose_version(aliases, "adapter", "staging")
