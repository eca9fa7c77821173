"""Prefect's, MLflow's or a version's server on loopback, behind a guard that refuses strangers.

Another user of the machine reaches loopback too, and so does a web page: by a form or script of its
own, or by a name of its own that it lets mean 127.0.0.1 (DNS rebinding). So every request must name
this machine as its host, come from no other page, and bring the secret.

It runs as a program of its own, by its path: a version brings its own `tasks`, which must not be
shadowed by those of this checkout.
"""

import argparse
import asyncio
import base64
import hmac
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECRET = "NIGHTLOOM_SERVER_SECRET"  # `USER:PASSWORD`, in the environment of the server alone

_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# A name, or an IPv6 address in brackets; then maybe a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s\[\]:@/?#]+))(?::\d{1,5})?", re.IGNORECASE)
_LAST_SECONDS = 5  # for what is being answered when the server is told to end
_MLFLOW_ROOT = "mlflow-artifacts:/"
# How long to wait before an application that was busy is asked once more.
_BUSY_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
# FastAPI's own pages about an API; Prefect's application has them beside its interface.
_ABOUT_THE_API = ("/api", "/docs", "/redoc", "/openapi.json")


@dataclass(frozen=True)
class Rules:
    """What a server shows to whoever comes by its right name, and how its pages ask who it is.

    `is_open` is told the path of a GET or HEAD. `pages_ask` says that a browser is to ask for user
    and password. With `sockets_ask` the application asks whoever opens a WebSocket by itself.
    """

    is_open: Callable[[str], bool]
    pages_ask: bool = False
    sockets_ask: bool = False


class Guard:
    """ASGI middleware; what it refuses reaches no route."""

    def __init__(self, app: "ASGIApp", secret: str, rules: Rules) -> None:
        self._app = app
        self._secret = secret.encode()
        self._rules = rules

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Let a request through, or answer it with 401 or 403."""
        denial = None if scope["type"] == "lifespan" else self.denial(scope)
        if denial is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # answered with 403
        else:
            status, message = denial
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            if status == 401 and self._rules.pages_ask:
                headers.append((b"www-authenticate", b'Basic realm="nightloom", charset="UTF-8"'))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": message.encode()})

    def denial(self, scope: "Scope") -> tuple[int, str] | None:
        """Return the status and message with which a request is refused, None where it is not."""
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1 or not _is_ours(hosts[0]):
            return 403, "this server is asked as 127.0.0.1 or localhost, by no other name\n"
        if any(_authority(origin) != hosts[0].lower() for origin in origins) or _is_embedded(scope):
            return 403, "pages of other addresses may not use this server\n"
        sent = _values(scope, b"authorization")
        if self._has_secret(sent) or (not sent and self._needs_no_secret(scope)):
            return None
        return 401, (
            "this server asks who you are: HTTP basic authentication, with the user before and the "
            "password after the colon of the line in .nightloom/private (docs/guides/"
            "every-night.md)\n"
        )

    def _needs_no_secret(self, scope: "Scope") -> bool:
        if scope["type"] == "websocket":
            return self._rules.sockets_ask
        return scope["method"] in ("GET", "HEAD") and self._rules.is_open(scope["path"])

    def _has_secret(self, sent: Sequence[str]) -> bool:
        kind, _, given = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
        try:
            known = hmac.compare_digest(base64.b64decode(given, validate=True), self._secret)
        except ValueError:
            return False
        return known and kind.lower() == "basic"


class BusyRetries:
    """ASGI middleware that asks an application again which answered 503.

    Prefect's does where SQLite let another transaction write first (SQLITE_BUSY_SNAPSHOT), which
    undoes the request whole; its clients would wait for two seconds, several times a night.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Let a request through, as often as it takes; the last answer is sent as it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = [await receive()]
        while body[-1].get("more_body"):
            body.append(await receive())
        for seconds in _BUSY_SECONDS:
            answer = _HeldAnswer(send)
            try:
                await self._app(dict(scope), _replayed(body, receive), answer.send)
            except Exception:
                if not answer.busy:  # Starlette raises what it answered with a 503 once more
                    raise
            if not answer.busy:
                return
            await asyncio.sleep(seconds)
        await self._app(scope, _replayed(body, receive), send)


class _HeldAnswer:
    """Sends an answer on unless it is a 503; `busy` says that it was."""

    def __init__(self, send: "Send") -> None:
        self._send = send
        self.busy = False

    async def send(self, message: "Message") -> None:
        self.busy |= message.get("status") == 503
        if not self.busy:
            await self._send(message)


def _replayed(body: "Sequence[Message]", receive: "Receive") -> "Receive":
    """Return a call that gives the messages of a body again, and then what comes after them."""
    left = iter(body)

    async def replay() -> "Message":
        for message in left:
            return message
        return await receive()

    return replay


def _values(scope: "Scope", name: bytes) -> list[str]:
    return [value.decode("latin-1") for known, value in scope["headers"] if known == name]


def _is_ours(host: str) -> bool:
    """Return whether a Host header names this machine's loopback; its port is not looked at."""
    found = _HOST.fullmatch(host)
    return found is not None and (found[1] or found[2]).lower() in _NAMES


def _authority(origin: str) -> str:
    """Return the host and port of an origin, empty where it has none (`null`)."""
    return origin.lower().partition("://")[2]


def _is_embedded(scope: "Scope") -> bool:
    """Return whether a page of another address asks, otherwise than by a link to here.

    A browser that knows the password sends it then too, and no Origin with images and scripts.
    https://www.w3.org/TR/fetch-metadata/
    """
    if not {"cross-site", "same-site"} & set(_values(scope, b"sec-fetch-site")):
        return False
    is_link = _values(scope, b"sec-fetch-dest") == ["document"] and scope.get("method") == "GET"
    return not is_link


def guarded_command(name: str, host: str, port: int, *options: str) -> list[str]:
    """Return the command of a server: `prefect`, `mlflow` or `version`; SECRET is in its
    environment.
    """
    here = [sys.executable, "-P", str(Path(__file__).resolve()), name]
    return [*here, "--host", host, "--port", str(port), *options]


def basic_header(secret: str) -> dict[str, str]:
    """Return the header by which a client of such a server says who it is."""
    return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}


def _prefect(_: argparse.Namespace) -> "tuple[ASGIApp, Rules]":
    """Return Prefect's application; its API and WebSockets ask for the secret by themselves too."""
    from prefect.server.api.server import create_app

    def is_open(path: str) -> bool:
        if path in ("/api/health", "/api/ready"):
            return True
        return not any(path == closed or path.startswith(f"{closed}/") for closed in _ABOUT_THE_API)

    return BusyRetries(create_app(final=True)), Rules(is_open, sockets_ask=True)


def _mlflow(arguments: argparse.Namespace) -> "tuple[ASGIApp, Rules]":
    """Return MLflow's application as `mlflow server` runs it, which can put no guard before it."""
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": arguments.store,
        "_MLFLOW_SERVER_REGISTRY_STORE": arguments.store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": _MLFLOW_ROOT,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": arguments.artifacts,
    }
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(arguments.store, arguments.store, _MLFLOW_ROOT)
    return app, Rules(lambda path: path == "/health", pages_ask=True)


def _version(arguments: argparse.Namespace) -> "tuple[ASGIApp, Rules]":
    """Return a registered version's application as `mlflow models serve` runs it."""
    from mlflow.pyfunc import scoring_server

    model = scoring_server.load_model_with_mlflow_config(arguments.uri)  # type: ignore[no-untyped-call]
    return scoring_server.init(model), Rules(lambda path: path == "/ping")


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    servers = parser.add_subparsers(required=True)
    for name, make in (("prefect", _prefect), ("mlflow", _mlflow), ("version", _version)):
        server = servers.add_parser(name)
        server.set_defaults(make=make)
        server.add_argument("--host", required=True)
        server.add_argument("--port", type=int, required=True)
        if name == "mlflow":
            server.add_argument("--store", required=True, help="the database's URI")
            server.add_argument("--artifacts", required=True, help="the URI of their folder")
        if name == "version":
            server.add_argument("--uri", required=True, help="models:/NAME/VERSION")
    arguments = parser.parse_args()
    secret = os.environ.pop(SECRET)
    import uvicorn

    app, rules = arguments.make(arguments)
    uvicorn.run(
        Guard(app, secret, rules),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )


if __name__ == "__main__":
    main()
