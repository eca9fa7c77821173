"""An OpenAI-compatible server: orders on standard input say what it serves, until that ends.

`nightloom serve` starts it and watches the registry for it; notices on standard output say what
came of each order. By hand, an order is one line, for example
{"order": "serve", "model": "adapter", "version": 1, "alias": "by hand", "bundle": "data/bundle"}
"""

import argparse
import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from pydantic import ValidationError

from tasks.feedback.params import Params
from tasks.records.schema import ServedModel
from tasks.serving.access import Access, Protection, read_key
from tasks.serving.connections import bounded_connections
from tasks.serving.exchange_log import ExchangeLog
from tasks.serving.memory_budget import MemoryBudget
from tasks.serving.protocol import (
    ORDER,
    KeepLog,
    Listening,
    Notice,
    NotServing,
    ServeVersion,
    TellRegistry,
)
from tasks.serving.routes import Service, make_app
from tasks.serving.versions import Versions
from tasks.stage.errors import ConfigError, NightloomError
from tasks.stage.params import load_params

if TYPE_CHECKING:
    from tasks.answering.pipeline import Answerer

LOGGER = logging.getLogger(__name__)
_DRAIN_SECONDS = 30
_BACKLOG = 2048
# Clients drop idle connections after 5 s (httpx, and so OpenAI's), as uvicorn would by itself: then
# a request can go out on a connection that is just being closed, and is lost.
_KEEP_ALIVE_SECONDS = 75


def load(
    store: Path,
    order: ServeVersion,
    *,
    beside: bool,
    wait_for_imports: Callable[[], None] = lambda: None,
) -> "Answerer":
    """Return the answerer of a version, once every file of its bundle is what its manifest says.

    Files are hashed while another thread imports what opening a bundle needs.

    Raises:
        ConfigError: the bundle or the base's weights can't be used; or another version answers
            that it would have to lie `beside`, and there is no memory for both.
        DataError: a file of the bundle is missing or changed.
    """
    # Deferred: torch takes seconds to import, and the server is to tell its health meanwhile.
    from tasks.answering.release_bundle import verify_bundle

    bundle = Path(order.bundle)
    verify_bundle(bundle, store)
    wait_for_imports()  # two threads in one package's imports can get it half imported
    from tasks.answering.loading import open_verified
    from tasks.serving.memory import require_free_memory

    if beside:
        require_free_memory(bundle, store, order.model)
    return open_verified(bundle, store, order.model)


def follow_orders(versions: Versions, log: ExchangeLog, server: uvicorn.Server) -> None:
    """Carry out the orders on standard input until it ends, which ends the server."""
    for line in sys.stdin:
        try:
            order = ORDER.validate_json(line)
        except ValidationError as error:
            LOGGER.error("this is not an order: %r (%s)", line, error)
            continue
        if isinstance(order, TellRegistry):
            versions.registry_error = order.error
            continue
        if isinstance(order, KeepLog):
            log.keep(order.place)
            continue
        notice = versions.install(order)
        if isinstance(notice, NotServing):
            LOGGER.error("%s version %d: %s", notice.model, notice.version, notice.error)
        tell(notice)
    server.should_exit = True


def import_models() -> None:
    """Import what a load needs, some four seconds, while the first order is still being found."""
    with suppress(ImportError):  # the load that needs it tells
        import_module(
            "tasks.answering.release_bundle"
        )  # first, since a load waits for nothing else
        import_module("tasks.answering.loading")
        import_module("tasks.serving.batcher")
        import_module("tasks.models.quantization").import_kernels()


def tell(notice: Notice) -> None:
    """Write a notice to standard output."""
    sys.stdout.write(notice.line())
    sys.stdout.flush()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 is any that is free.

    Raises:
        ConfigError: the address can't be had.
    """
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # Listening from the start: who is told the address can connect at once.
        return socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"the server can't listen on {host} port {port}: {error}",
            "choose another with --port, or end what uses it",
        ) from None


def address_of(bound: socket.socket, protection: Protection) -> str:
    """Return the URL at which this machine finds a server that listens on a socket."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if protection.has_tls else 'http'}://{shown}:{port}"


def make_server(service: Service, access: Access, protection: Protection) -> uvicorn.Server:
    """Return the server of these routes.

    Raises:
        ConfigError: the TLS files can't be used.
    """
    app, bounds = make_app(service, access), service.bounds
    config = uvicorn.Config(
        app,
        http=bounded_connections(bounds),
        ws="none",
        lifespan="off",
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=bounds.head_kilobytes * 1024,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        ssl_certfile=protection.tls_certificate,
        ssl_keyfile=protection.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # what OpenSSL says too
        raise ConfigError(
            f"the TLS files can't be used: {error}",
            "name a certificate and its key, PEM files without a password, with --tls-certificate "
            "and --tls-key",
        ) from None
    return uvicorn.Server(config)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 once standard input has ended, 1 with the reason on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    models: list[ServedModel] = list(dict.fromkeys(options.model))
    imports = threading.Thread(target=import_models, name="imports", daemon=True)
    log = ExchangeLog(Path.cwd())
    protection = Protection(
        options.key_file is not None,
        options.tls_certificate,
        options.tls_key,
        options.tls_by_proxy,
    )
    try:
        protection.check(options.host)
        params = load_params(Params, [options.params]).serving
        key = None if options.key_file is None else read_key(options.key_file)
        versions = Versions(
            models,
            partial(load, options.store, wait_for_imports=imports.join),
            MemoryBudget.of(params.requests),
        )
        service = Service(versions, log, params.requests)
        server = make_server(service, Access(key, frozenset(params.hosts)), protection)
        bound = bind(options.host, options.port)
        protection.check(str(bound.getsockname()[0]))
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    imports.start()
    threading.Thread(target=follow_orders, args=(versions, log, server), daemon=True).start()
    tell(Listening(address=address_of(bound, protection)))
    server.run(sockets=[bound])
    log.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.serving.server", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    parser.add_argument("--model", choices=("adapter", "student"), nargs="+", required=True)
    parser.add_argument("--params", type=Path, required=True, help="params/serving.yaml")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free")
    access = parser.add_mutually_exclusive_group(required=True)
    access.add_argument("--key-file", type=Path, help="holds the key that clients must send")
    access.add_argument("--no-key", action="store_true", help="demand none; on loopback alone")
    parser.add_argument("--tls-certificate", type=Path, help="a PEM file")
    parser.add_argument("--tls-key", type=Path, help="a PEM file")
    parser.add_argument("--tls-by-proxy", action="store_true", help="a proxy before it speaks TLS")
    return parser


if __name__ == "__main__":
    sys.exit(main())
