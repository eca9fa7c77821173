"""No route of a server that we start is open to strangers, but for a few that show nothing.

Prefect's and MLflow's servers belong here too: add a fixture that starts one and describes it.
"""

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from flows.credentials import serving_key_file
from tasks.serving.access import Access
from tasks.serving.routes import make_app
from tasks.stage.errors import ConfigError
from tests.builders.model_server import BEARER, bounds
from tests.builders.strangers import Guarded, closed_to_its_own, open_to_strangers
from tests.builders.stub_server import StubEngine, StubServer, stub_server, stub_service

pytestmark = pytest.mark.slow

# All that anybody is told by the routes that are open: whether it is up, and not of what.
_STATUSES = frozenset(f'{{"status":"{status}"}}' for status in ("ok", "loading", "full"))
OPEN = {"GET /health": _STATUSES, "GET /ready": _STATUSES}
# What an attacker tries that is no route of ours.
TRIED = frozenset({"/", "/docs", "/redoc", "/admin", "/health/", "/ready/x", "/v1"})


def declared_paths(folder: Path) -> set[str]:
    """Every path of the application, also those that its listing leaves out."""
    routes = make_app(stub_service(folder, bounds(), StubEngine()), Access(None)).routes
    assert all(isinstance(route, Route) for route in routes)
    return {route.path for route in routes if isinstance(route, Route)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    with stub_server(tmp_path_factory.mktemp("server"), bounds()) as made:
        yield made


@pytest.fixture(scope="module", params=["serve"])
def guarded(request: pytest.FixtureRequest, server: StubServer, tmp_path_factory: Any) -> Guarded:
    """A server that we start. Others are one more name in `params`, each with its open routes."""
    assert request.param == "serve"
    listing = server.get("/openapi.json").json()
    more = TRIED | declared_paths(tmp_path_factory.mktemp("app"))
    return Guarded(server.address, BEARER, listing["paths"], OPEN, frozenset(more))


def test_no_route_is_open_to_strangers(guarded: Guarded) -> None:
    assert len(guarded.paths) >= 8
    assert open_to_strangers(guarded) == []


def test_its_own_clients_get_in_by_every_route(guarded: Guarded) -> None:
    assert closed_to_its_own(guarded) == []


def test_what_a_stranger_sends_changes_nothing(server: StubServer) -> None:
    """Nor does it cost the others their answers: the body of a stranger is not read."""
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps({"model": "adapter", "messages": [{"role": "user", "content": "x"}]})
    asked = len(server.engine.asked)
    for head in ("", "authorization: Bearer wrong\r\n", "origin: http://evil.example\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\n{head}"
                f"content-length: {len(body)}\r\n\r\n{body}".encode()
            )
            assert stranger.recv(64).split()[1] in (b"401", b"403")
    assert len(server.engine.asked) == asked
    assert server.post().status_code == 200
    assert len(server.engine.asked) == asked + 1


def test_the_key_is_in_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / ".nightloom").mkdir()
    path = serving_key_file(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key = path.read_text().strip()
    assert len(key) >= 32
    assert serving_key_file(tmp_path).read_text().strip() == key
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="has the mode 0640"):
        serving_key_file(tmp_path)
    path.unlink()
    assert serving_key_file(tmp_path).read_text().strip() != key
