"""Prefect's, MLflow's and a version's server, as we start them, against whoever must not get in."""

import asyncio
import base64
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import mlflow
import pytest
import websockets
from mlflow.tracking import MlflowClient

from flows import servers
from flows.credentials import mlflow_secret_file, secret_file
from tasks.orchestration.guarded_server import SECRET, basic_header, guarded_command
from tasks.services.loopback import answers, free_port, wait_for_answer
from tasks.services.processes import end_child
from tests.builders.byte_search import files_with
from tests.builders.planted import PLANTED, planted_secrets
from tests.builders.prefect_server import migrated_store
from tests.builders.strangers import Guarded, strangers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HOST = "127.0.0.1"
NAMES = ("prefect", "mlflow", "version")
# Served by MLflow as any version is; what it answers does not matter here.
_MODEL = """
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return ["served" for _ in model_input]

mlflow.models.set_model(Model())
"""


@dataclass(frozen=True)
class Site:
    """A checkout whose three servers are up, each with the address where it listens."""

    checkout: Path
    addresses: Mapping[str, str]
    secrets: Mapping[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All three started at once, which takes as long as the slowest."""
    before = os.umask(0o077)  # as `set_environment` sets it for every process of ours
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / ".nightloom" / "prefect").mkdir(parents=True)
    store = migrated_store(tmp_path_factory)
    shutil.copyfile(store, checkout / ".nightloom" / "prefect" / store.name)
    (checkout / "model.py").write_text(_MODEL)
    mlflow.pyfunc.save_model(checkout / "model", python_model=str(checkout / "model.py"))
    ports = {name: free_port() for name in NAMES}
    addresses = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
    secrets = {
        "prefect": servers.server_secret(checkout),
        "mlflow": servers.mlflow_secret(checkout),
        "version": "nightloom:a-secret-of-this-server-alone",
    }
    commands = {
        "prefect": servers._prefect_server(checkout, ports["prefect"])[0],
        "mlflow": servers._mlflow_command(checkout, ports["mlflow"]),
        "version": guarded_command(
            "version", HOST, ports["version"], "--uri", str(checkout / "model")
        ),
    }
    environment = servers._prefect_environment(checkout, addresses["prefect"]) | PLANTED
    children = {
        name: servers._start(checkout, name, commands[name], environment | {SECRET: secrets[name]})
        for name in NAMES
    }
    os.umask(before)
    try:
        for name, path in (("prefect", "/api/health"), ("mlflow", "/health"), ("version", "/ping")):
            up = wait_for_answer(addresses[name] + path, children[name], 180)
            assert up, servers.log_file(checkout, name).read_text()
        yield Site(checkout, addresses, secrets)
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            end_child(child)


def let_in(server: Guarded) -> list[str]:
    """Each route that answers a stranger otherwise than with 401 or 403, and is not open to him.

    There are hundreds of routes. So each is tried by whoever just comes, by a page that let its
    name mean this machine, and by one of the other kinds in turn.
    """
    kinds = strangers(server)
    always = ["nobody", "a page that rebound its name"]
    others = [name for name in kinds if name not in always]
    url = httpx.URL(server.address)
    client = http.client.HTTPConnection(url.host, url.port or 0, timeout=120)
    found = []
    for number, (method, path) in enumerate(server.declared()):
        for name in [*always, others[number % len(others)]]:
            client.request(method, path, headers={"content-length": "0"} | kinds[name])
            answer = client.getresponse()
            text = answer.read().decode(errors="replace")
            allowed = server.open_routes.get(f"{method} {path}", frozenset())
            if answer.status not in (401, 403) and not (name == "nobody" and text in allowed):
                found.append(f"{method} {path} to {name}: {answer.status} {text[:80]}")
    client.close()
    return found


def prefect_server(site: Site) -> Guarded:
    """Its API as its OpenAPI listing has it, its pages, and what FastAPI adds to both."""
    address = site.addresses["prefect"]
    own = basic_header(site.secrets["prefect"])
    found = httpx.get(f"{address}/openapi.json", headers=own, timeout=60, trust_env=False).json()
    paths = {f"/api{path}": methods for path, methods in found["paths"].items()}
    assert len(paths) > 100
    for path in ("/docs", "/redoc", "/openapi.json", "/api/docs", "/api/openapi.json", "/api"):
        paths[path] = {"GET": {}, "POST": {}}
    pages = ("/", "/v2/", "/ui-settings")
    shown = {path: httpx.get(address + path, timeout=60, trust_env=False).text for path in pages}
    assert all("<!DOCTYPE html>" in shown[path] for path in ("/", "/v2/"))
    assert json.loads(shown["/ui-settings"])["auth"] == "BASIC"
    paths |= {path: {"GET": {}, "POST": {}} for path in (*pages, "/runs")}
    open_routes = {f"GET {path}": frozenset({text}) for path, text in shown.items()} | {
        "GET /runs": frozenset({'{"detail":"Not Found"}'}),
        "GET /api/health": frozenset({"true"}),
        "GET /api/ready": frozenset({'{"message":"OK"}'}),
    }
    return Guarded(address, own, paths, open_routes)


def mlflow_server(site: Site) -> Guarded:
    """Its FastAPI routes, and the rules of the Flask application below them."""
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import app

    paths: dict[str, dict[str, object]] = {**app.openapi()["paths"]}
    for rule in flask_app.url_map.iter_rules():
        name = str(rule).replace("<", "{").replace(">", "}")
        paths[name] = paths.get(name, {}) | {method: {} for method in rule.methods or ()}
    assert len(paths) > 200
    assert {"/v1/traces", "/api/2.0/mlflow/runs/create"} <= paths.keys()
    own = basic_header(site.secrets["mlflow"])
    open_routes = {"GET /health": frozenset({"OK"}), "HEAD /health": frozenset({""})}
    return Guarded(site.addresses["mlflow"], own, paths, open_routes)


def version_server(site: Site) -> Guarded:
    """What MLflow's scoring server has, and FastAPI's pages about it."""
    address, own = site.addresses["version"], basic_header(site.secrets["version"])
    found = httpx.get(f"{address}/openapi.json", headers=own, trust_env=False).json()["paths"]
    assert {"/invocations", "/ping"} <= found.keys()
    paths = found | {path: {"GET": {}, "POST": {}} for path in ("/docs", "/openapi.json", "/")}
    open_routes = {"GET /ping": frozenset({"\n", ""}), "HEAD /ping": frozenset({""})}
    return Guarded(address, own, paths, open_routes)


GUARDED = {"prefect": prefect_server, "mlflow": mlflow_server, "version": version_server}


@pytest.mark.parametrize("name", NAMES)
def test_no_route_answers_a_stranger(site: Site, name: str) -> None:
    assert let_in(GUARDED[name](site)) == []


@pytest.mark.parametrize("name", NAMES)
def test_no_page_that_is_read_refuses_whoever_has_the_secret(site: Site, name: str) -> None:
    """Else the refusals would prove nothing."""
    server = GUARDED[name](site)
    refused = []
    with httpx.Client(
        base_url=server.address, headers=server.credentials, timeout=10, trust_env=False
    ) as client:
        for method, path in server.declared():
            if method == "GET":
                with suppress(httpx.TimeoutException), client.stream("GET", path) as answer:
                    refused += [path] if answer.status_code in (401, 403) else []
    assert refused == []


def test_no_websocket_opens_for_a_stranger(site: Site) -> None:
    """Prefect's sockets ask by a first message; from other hosts and pages they don't open."""
    server = prefect_server(site)
    paths = ["/api/events/in", "/api/events/out", "/api/logs/out"]
    paths += ["/api/task_runs/subscriptions/scheduled", "/api/work_pools/x/workers/connect"]

    async def refused(path: str, headers: Mapping[str, str], secret: str) -> bool:
        url = server.address.replace("http:", "ws:") + path
        try:
            async with websockets.connect(
                url, subprotocols=[websockets.Subprotocol("prefect")],
                additional_headers={k: v for k, v in headers.items() if k != "origin"},
                origin=headers.get("origin"), proxy=None,
            ) as opened:  # fmt: skip
                await opened.send(f'{{"type": "auth", "token": "{secret}"}}')
                return "auth_success" not in await opened.recv()
        except (websockets.InvalidStatus, websockets.ConnectionClosed):
            return True

    async def all_refused() -> list[str]:
        found = []
        for name, headers in strangers(server).items():
            if "host" in headers:  # the library names the host by itself
                continue
            # Even a page that has the secret must not get in from elsewhere.
            secret = site.secrets["prefect"] if "origin" in headers else "another"
            found += [
                f"{path} to {name}" for path in paths if not await refused(path, headers, secret)
            ]
        return found

    assert asyncio.run(all_refused()) == []
    assert not asyncio.run(refused(paths[1], {}, site.secrets["prefect"]))


def test_a_browser_is_asked_by_mlflows_page_and_a_link_from_elsewhere_opens(site: Site) -> None:
    address = site.addresses["mlflow"]
    asked = httpx.get(address, trust_env=False)
    assert asked.headers["www-authenticate"].startswith("Basic ")
    assert ".nightloom/private" in asked.text
    known = basic_header(site.secrets["mlflow"])
    link = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-dest": "document",
        "sec-fetch-mode": "navigate",
    }
    assert httpx.get(address, headers=known | link, trust_env=False).status_code == 200
    for kind in ("image", "script", "empty", "iframe"):
        embedded = known | {"sec-fetch-site": "same-site", "sec-fetch-dest": kind}
        assert httpx.get(address, headers=embedded, trust_env=False).status_code == 403, kind
    posted = httpx.post(
        f"{address}/api/2.0/mlflow/runs/search", headers=known | link, trust_env=False
    )
    assert posted.status_code == 403


def test_mlflows_own_client_gets_in_with_the_settings_of_a_checkout(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user, _, password = site.secrets["mlflow"].partition(":")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient(site.addresses["mlflow"])
    run = client.create_run(client.create_experiment("of a client")).info
    client.log_text(run.run_id, "kept", "a file.txt")
    read = client.download_artifacts(run.run_id, "a file.txt", str(tmp_path))
    assert Path(read).read_text() == "kept"
    assert client.search_runs([run.experiment_id])[0].info.run_id == run.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
    with pytest.raises(Exception, match="401"):
        client.search_experiments()


def test_no_other_user_reads_a_secret(site: Site) -> None:
    files = [secret_file(site.checkout), mlflow_secret_file(site.checkout)]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    if os.geteuid() != 0:
        pytest.skip("only root can read as another user")
    for path in files:
        site.checkout.chmod(0o755)
        read = subprocess.run(["cat", path], user=65534, capture_output=True, check=False)
        assert (read.returncode, read.stdout) == (1, b"")


def test_what_the_servers_write_is_for_their_owner_alone(site: Site) -> None:
    state = site.checkout / ".nightloom"
    places = [
        path for name in ("logs", "prefect", "artifacts") for path in (state / name).rglob("*")
    ]
    assert {path.name for path in places} >= {"prefect.log", "mlflow.log"}
    made = [*places, state / "mlflow.db"]
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []


def test_no_store_log_or_process_line_holds_a_secret(site: Site) -> None:
    """The servers' own, and whatever else stands in the environment in which they were started."""
    secrets = [value.partition(":")[2] for value in site.secrets.values()]
    secrets += [base64.b64encode(value.encode()).decode() for value in site.secrets.values()]
    secrets += planted_secrets()
    private = site.checkout / ".nightloom" / "private"
    assert files_with(site.checkout, secrets, left_out=[private]) == []
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines for secret in secrets if secret.encode() in line]


def test_what_is_up_answers_without_a_secret_that_it_is(site: Site) -> None:
    assert answers(f"{site.addresses['prefect']}/api/health")
    assert answers(f"{site.addresses['mlflow']}/health")
