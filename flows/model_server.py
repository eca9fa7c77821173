"""A model server, and the watch on the registry that tells it what to serve.

The server is a child that knows no registry; this process polls the aliases and hands it bundles.
"""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flows.credentials import serving_key_file
from flows.environment import find_stores
from flows.process_file import ProcessFile, this_process
from flows.servers import log_file
from flows.shutdown import interrupt_on_signals
from flows.workspace import STATE, WorkspacePaths
from tasks.feedback.exchanges import LogPlace
from tasks.feedback.params import Params
from tasks.records.schema import ServedModel
from tasks.services.processes import end_child, last_log_lines, start_child
from tasks.services.stores import SERVED
from tasks.serving.access import Protection
from tasks.serving.protocol import (
    NOTICE,
    KeepLog,
    Listening,
    Notice,
    NotServing,
    Order,
    ServeVersion,
    TellRegistry,
)
from tasks.stage.errors import ConfigError, GateError, NightloomError
from tasks.stage.params import load_params, read_yaml

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.registry.client import Registry
    from tasks.services.stores import Stores

POLL_SECONDS = 2.0
# A version that could not be loaded is tried again: memory may have become free.
_RETRY_SECONDS = 300.0
# Where something is served already, the next look asks a registry that is away again.
_AWAY_SECONDS = 5.0
_DRAIN_SECONDS = 40.0


class ModelServer(ProcessFile):
    """Where a server of this checkout listens: the process that keeps it, and its address.

    `alias` is the one it was told to follow, None for production, else staging, else candidate.
    `key_file` holds the key that it demands, `certificate` is what it shows where it speaks TLS.
    """

    FILE: ClassVar[str] = "serving.json"

    address: str
    models: list[ServedModel]
    alias: str | None = None
    key_file: Path | None = None
    certificate: Path | None = None


@dataclass(frozen=True)
class ServeOptions:
    """What to serve, where, and by which alias; None is production, else staging, else candidate.

    Port 0 is any that is free. `log` keeps questions and answers as MLflow traces.
    """

    models: Sequence[ServedModel]
    alias: str | None
    host: str
    port: int
    protection: Protection
    log: bool = False
    poll_seconds: float = POLL_SECONDS


@dataclass
class AliasWatcher:
    """What the registry's aliases name, as orders; an order is given once, until it fails.

    With `log` also where questions and answers are kept, which follows the stores.
    """

    checkout: Path
    models: Sequence[ServedModel]
    alias: str | None
    log: bool = False
    _kept: "Stores | None" = None
    _given: dict[ServedModel, tuple[str, int]] = field(default_factory=dict)
    _retry: dict[ServedModel, float] = field(default_factory=dict)
    _registry: "tuple[tuple[Stores, float | None], Registry] | None" = None

    def look(self) -> list[Order]:
        """Return the orders for what has changed since the last look.

        Raises:
            NightloomError: the alias names no version.
            GateError: it names one that must not serve, since it held what was erased.
        """
        # Deferred: mlflow takes seconds to import, while which the server's child starts.
        from tasks.registry.aliases import choose_version
        from tasks.registry.audit import bundle_to_serve
        from tasks.registry.erased import check_may_serve

        orders = self._log_orders()
        registry = self._open()
        for model in self.models:
            alias, number = choose_version(registry.aliases(model), model, self.alias)
            check_may_serve(registry, model, number)
            again = time.monotonic() >= self._retry.get(model, float("inf"))
            if self._given.get(model) == (alias, number) and not again:
                continue
            version = registry.version(model, number)
            bundle = bundle_to_serve(registry, version, self.checkout / STATE / "downloads")
            orders.append(
                ServeVersion(model=model, version=number, alias=alias, bundle=str(bundle))
            )
            self._given[model] = (alias, number)
            self._retry.pop(model, None)
        return orders

    def _log_orders(self) -> list[Order]:
        """Return the order to keep the log elsewhere, where the stores have changed."""
        stores = find_stores(self.checkout)
        if not self.log or stores == self._kept:
            return []
        self._kept = stores
        params = str(self.checkout / "params")
        place = LogPlace(tracking_uri=stores.tracking_uri, artifacts=stores.location, params=params)
        return [KeepLog(place=place)]

    def failed(self, notice: NotServing) -> None:
        """Let a version that could not be loaded be ordered again after a while."""
        self._retry[notice.model] = time.monotonic() + _RETRY_SECONDS

    def _open(self) -> "Registry":
        """Return the registry, another one if `nightloom up` has started or stopped since.

        One that is away is waited for as any command does until there is something to serve.
        """
        from tasks.registry.client import Registry

        opened_as = (find_stores(self.checkout), _AWAY_SECONDS if self._given else None)
        if self._registry is None or self._registry[0] != opened_as:
            self._registry = (opened_as, Registry(opened_as[0], retry_seconds=opened_as[1]))
        return self._registry[1]


def serve_until_interrupted(checkout: Path, options: ServeOptions, console: "Console") -> None:
    """Serve until told to end, and tell the console what a person would want to know."""
    interrupt_on_signals(hurry=True)
    try:
        serve_versions(
            checkout, options, lambda text: console.print(text, markup=False, soft_wrap=True)
        )
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal has been closed
            console.print("stopped")


def serve_versions(checkout: Path, options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve until interrupted; `say` is told what a person would want to know.

    Raises:
        ConfigError: it would be open to strangers, a server is up already, nothing can be served,
            or the server ended.
    """
    options.protection.check(options.host)
    running = ModelServer.read(checkout)
    if running is not None:
        raise ConfigError(
            f"a server is up already at {running.address}, kept by process {running.pid}",
            "use it, or end that process first",
        )
    # A registry that is down must not hold the watch for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    with _server(checkout, options) as child:
        notices = _notices(child)
        watch = AliasWatcher(checkout, options.models, options.alias, options.log)
        say(_access_told(checkout, options.protection))
        if options.log:
            say(_log_told(checkout))
        try:
            _follow(checkout, options, watch, child, notices, say)
        finally:
            ModelServer.remove(checkout)


def _access_told(checkout: Path, protection: Protection) -> str:
    """Return who can use the server."""
    if not protection.demands_key:
        return "no key is demanded (--no-key): every user and program of this machine can use it"
    return (
        f"clients send `Authorization: Bearer KEY`; KEY is in {serving_key_file(checkout)}, which "
        "`nightloom ask` reads"
    )


def _log_told(checkout: Path) -> str:
    """Return what is kept and for how long, as whoever asks should know."""
    bounds = load_params(Params, [checkout / "params" / "serving.yaml"]).serving.log
    return (
        f"questions and answers are kept for {bounds.days} days, at most {bounds.megabytes} MB, in "
        f"MLflow's experiment {SERVED}; personal data are masked as params/curation.yaml says"
    )


def _follow(
    checkout: Path,
    options: ServeOptions,
    watch: AliasWatcher,
    child: "subprocess.Popen[str]",
    notices: "queue.Queue[Notice | None]",
    say: Callable[[str], None],
) -> None:
    """Hand orders to the server and print its notices, for as long as both live."""
    for order in watch.look():  # what is wrong before anything is served, is an error
        _order(child, order)
    trouble: str | None = None
    look_at = time.monotonic() + options.poll_seconds
    while True:
        with suppress(queue.Empty):
            notice = notices.get(timeout=max(0.0, look_at - time.monotonic()))
            if notice is None:
                raise _server_ended(checkout)
            _handle_notice(checkout, options, watch, notice, say)
            continue
        orders, found = _new_orders(watch)
        if found != trouble:
            trouble = found
            orders = [TellRegistry(error=found), *orders]
            say("the registry answers again" if found is None else f"the registry: {found}")
        for order in orders:
            _order(child, order)
        look_at = time.monotonic() + options.poll_seconds


def _new_orders(watch: AliasWatcher) -> tuple[list[Order], str | None]:
    """Return new orders, or why the registry has none: what serves goes on serving.

    Raises:
        GateError: what serves must not any more.
    """
    try:
        return watch.look(), None
    except GateError:
        raise
    except NightloomError as error:
        return [], error.message
    except Exception as error:  # noqa: BLE001  databases, HTTP and disks each fail in their own way
        return [], f"{type(error).__name__}: {error}"[:500]


def _handle_notice(
    checkout: Path,
    options: ServeOptions,
    watch: AliasWatcher,
    notice: Notice,
    say: Callable[[str], None],
) -> None:
    """Tell what the server tells.

    Raises:
        ConfigError: a model has no version that could be loaded.
    """
    if isinstance(notice, Listening):
        pid, started = this_process()
        server = ModelServer(
            pid=pid,
            started=started,
            address=notice.address,
            models=list(options.models),
            alias=options.alias,
            key_file=serving_key_file(checkout) if options.protection.demands_key else None,
            certificate=options.protection.tls_certificate,
        )
        server.write(checkout)
        say(f"{notice.address}/v1 listens; loading")
    elif isinstance(notice, NotServing):
        watch.failed(notice)
        what = f"version {notice.version} of the {notice.model} could not be loaded: {notice.error}"
        if notice.still is None:
            raise ConfigError(what, "mend it, or name another version with --alias")
        say(f"{what}\nversion {notice.still} serves on")
    else:
        name = f"nightloom-{notice.model} version {notice.version} ({notice.alias})"
        say(f"{name} answers, loaded in {notice.seconds:.1f} s")


@contextmanager
def _server(checkout: Path, options: ServeOptions) -> "Iterator[subprocess.Popen[str]]":
    """Start the server's process; end it with what it began when the block ends.

    Should this process be killed, its end of the pipe closes, and the server ends by itself.
    """
    paths = WorkspacePaths.model_validate(read_yaml(checkout / "params" / "paths.yaml"))
    log = log_file(checkout, "serve")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tasks.serving.server", "--model", *options.models]
    command += ["--store", str(checkout / paths.model_store)]
    command += ["--params", str(checkout / "params" / "serving.yaml")]
    command += ["--host", options.host, "--port", str(options.port)]
    command += _protecting(checkout, options.protection)
    with log.open("w", encoding="utf-8") as stream:
        child = start_child(
            command,
            checkout,
            stdin=subprocess.PIPE,
            stderr=stream,
            grace_seconds=_DRAIN_SECONDS,
        )
    try:
        yield child
    finally:
        end_child(child)
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # what an order left unsent
            child.stdin.close()


def _protecting(checkout: Path, protection: Protection) -> list[str]:
    """Return the server's options against strangers; the key itself stands in none."""
    found = ["--no-key"]
    if protection.demands_key:
        found = ["--key-file", str(serving_key_file(checkout))]
    for option, path in (
        ("--tls-certificate", protection.tls_certificate),
        ("--tls-key", protection.tls_key),
    ):
        found += [] if path is None else [option, str(path.absolute())]
    return [*found, "--tls-by-proxy"] if protection.tls_by_proxy else found


def _notices(child: "subprocess.Popen[str]") -> "queue.Queue[Notice | None]":
    """Return what the server tells, and None once it has ended."""
    found: queue.Queue[Notice | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        with suppress(ValueError):  # closed at the end
            for line in child.stdout:
                found.put(NOTICE.validate_json(line))
        found.put(None)

    threading.Thread(target=read, name="notices", daemon=True).start()
    return found


def _order(child: "subprocess.Popen[str]", order: Order) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, as its notices tell
        child.stdin.write(order.line())
        child.stdin.flush()


def _server_ended(checkout: Path) -> ConfigError:
    log = log_file(checkout, "serve")
    last = last_log_lines(log)
    return ConfigError(f"the server has ended; its log says last:\n{last}", f"read {log}")
