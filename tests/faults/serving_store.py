"""A real MLflow server over a shop's store, and a connection to it that loses answers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

from tests.builders.registry import Shop

_START_SECONDS = 120.0
# A connection a request: one that is kept could be to a server that has died since.
_CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))


class Server:
    """`mlflow server`, as a user may run one, at one port, however often it is started."""

    def __init__(self, shop: Shop, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        self._command += ["--port", str(port), "--workers", "1"]
        self._command += ["--backend-store-uri", f"sqlite:///{shop.database}"]
        self._command += ["--artifacts-destination", (shop.root / "artifacts").as_uri()]
        self._log = shop.root / "server.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it answers."""
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(self._log.read_text())
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None

    def _answers(self) -> bool:
        try:
            return _CLIENT.get(f"{self.address}/health").status_code == 200
        except httpx.HTTPError:
            return False


class _Proxy(ThreadingHTTPServer):
    def handle_error(self, *given: Any) -> None:
        """Tell what went wrong, but not that a client has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*given)


@contextmanager
def losing_answers(
    upstream: str, to: str = "", then: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, set[str]]]:
    """An address that passes requests on, and the paths of those whose first answer it lost.

    Each request that writes, to paths that end with `to`, is carried out; when it is first made,
    the connection ends instead of an answer, as if the server had died a moment after it had
    written. `then` is called at the first of them.
    """
    lost, asked = set[str](), set[tuple[str, str, bytes]]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = (self.command, self.path, self.rfile.read(length))
            kind = self.headers.get("Content-Type", "application/json")
            try:
                answer = _CLIENT.request(
                    self.command,
                    upstream + self.path,
                    content=request[2],
                    headers={"Content-Type": kind},
                )
            except httpx.HTTPError:  # the server is away, and so is this connection
                self.close_connection = True
                return
            writes = self.command != "GET" and not self.path.endswith("/search")
            if writes and self.path.endswith(to) and request not in asked:
                asked.add(request)
                lost.add(self.path.rsplit("mlflow/", 1)[-1])
                self.close_connection = True
                if len(asked) == 1:
                    then()
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Keep what was asked to itself."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._pass_on)
    proxy = _Proxy(("127.0.0.1", 0), Handler)
    Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}", lost
    finally:
        proxy.shutdown()
        proxy.server_close()
