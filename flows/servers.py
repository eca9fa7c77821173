"""Prefect, MLflow and the worker: start, find and stop them."""

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import yaml

from flows.credentials import mlflow_secret_file, private_folder, secret_file
from flows.mlflow_store import own_store
from flows.process_file import ProcessFile, this_process
from flows.run_state import abandoned_nights
from flows.shutdown import ROOT, TAG, Keeper, end_flows, end_leftovers, find_keeper
from flows.supervision import Supervision
from flows.workspace import STATE
from tasks.orchestration.guarded_server import SECRET, guarded_command
from tasks.services import HOST
from tasks.services.databases import is_database
from tasks.services.loopback import free_port, wait_for_answer
from tasks.services.processes import (
    ChildResult,
    child_environment,
    end_child,
    run_child,
    start_server,
)
from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml

POOL = "nightloom"

_START_SECONDS = 180.0

# The address of a Prefect server that only this process and its children use.
_OWN_SERVER = "NIGHTLOOM_OWN_PREFECT"

_GRACE_SECONDS = 20.0

_LOOKED_AT = 20  # nights that may have been cut short
_CLOSE_SECONDS = 60.0

# What children begin a line with that people are to read.
TOLD = "told: "

# What a flow run may set for its process. Prefect's own template lets it give the command, the
# environment and the working folder, by each of which it can run any program.
_JOB_TEMPLATE = {
    "job_configuration": {"stream_output": True},
    "variables": {"type": "object", "properties": {}},
}


class Services(ProcessFile):
    """Servers that are up: the process that keeps them, and their addresses."""

    FILE: ClassVar[str] = "services.json"

    prefect: str
    mlflow: str

    @property
    def prefect_api(self) -> str:
        """Return the address of Prefect's API."""
        return f"{self.prefect}/api"


def is_foreign_prefect(checkout: Path) -> bool:
    """Return whether a Prefect server is used that this checkout did not start."""
    given = os.environ.get("PREFECT_API_URL")
    services = Services.read(checkout)
    ours = {os.environ.get(_OWN_SERVER), services and services.prefect_api}
    return bool(given) and given not in ours and TAG not in os.environ


def shares_prefect(checkout: Path) -> bool:
    """Return whether others use the Prefect server that runs here talk to."""
    given = os.environ.get("PREFECT_API_URL")
    if given:
        return given != os.environ.get(_OWN_SERVER)
    return Services.read(checkout) is not None


@dataclass(frozen=True)
class Running:
    """Servers and the worker, as the process that started them holds them.

    `told` says what was closed and caught up with as they started.
    """

    services: Services
    supervision: Supervision
    told: Sequence[str]


@contextmanager
def running_services(
    checkout: Path, prefect_port: int, mlflow_port: int, deployments: Path
) -> Iterator[Running]:
    """Start both servers and a worker with a file's deployments; stop them as the block ends.

    Raises:
        ConfigError: they are up already, a port is taken, or one did not come up.
    """
    _check_startable(checkout, prefect_port, mlflow_port)
    pid, started = this_process()
    keeper = Keeper(pid=pid, started=started)
    addresses = {"prefect": _address(prefect_port), "mlflow": _address(mlflow_port)}
    services = Services(pid=pid, started=started, **addresses)
    environment = {**_environment(checkout, services), TAG: keeper.tag}
    children = _Children(checkout, _commands(checkout, prefect_port, mlflow_port), environment)

    Services.remove(checkout)  # of one that was killed
    keeper.write(checkout)  # `down` must find what has started, up or not
    try:
        children.start("prefect")
        children.start("mlflow")
        _wait(f"{services.prefect_api}/health", "prefect", checkout, children.living["prefect"])
        _wait(f"{services.mlflow}/health", "mlflow", checkout, children.living["mlflow"])
        told = _deploy(checkout, environment, deployments)
        children.start("worker")
        services.write(checkout)
        log = partial(log_file, checkout)
        yield Running(services, Supervision(children.living, children.start_again, log), told)
    finally:
        Services.remove(checkout)
        end_flows(keeper)
        _close_abandoned(checkout, environment)
        children.stop()
        end_leftovers(keeper)
        Keeper.remove(checkout)


_Command = tuple[Sequence[str], Mapping[str, str]]  # and the secret that it alone is told


class _Children:
    """Both servers and the worker, by name: how each starts, and those that live."""

    def __init__(
        self, checkout: Path, commands: Mapping[str, _Command], environment: Mapping[str, str]
    ) -> None:
        self._checkout, self._commands, self._environment = checkout, commands, environment
        self.living: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str) -> None:
        """Start one."""
        command, secret = self._commands[name]
        environment = {**self._environment, **secret}
        self.living[name] = _start(self._checkout, name, command, environment)

    def start_again(self, name: str) -> Sequence[str]:
        """Start one that ended by itself; return what was done for the nights that it ended."""
        told: Sequence[str] = ()
        if name == "worker":  # its nights ended with it
            rerun = [sys.executable, "-m", "flows.rerun"]
            told = _told(run_child(rerun, self._checkout, environment=self._environment))
        self.start(name)
        return told

    def stop(self) -> None:
        """End the worker, which still says so to the servers, and then these."""
        if "worker" in self.living:
            end_child(self.living["worker"])
        for child in self.living.values():
            if child.poll() is None:
                child.terminate()
        for child in self.living.values():
            child.wait()


def _commands(checkout: Path, prefect_port: int, mlflow_port: int) -> Mapping[str, _Command]:
    """Return how both servers and the worker start."""
    worker = ["prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    return {
        "prefect": _prefect_server(checkout, prefect_port),
        "mlflow": (_mlflow_command(checkout, mlflow_port), {SECRET: mlflow_secret(checkout)}),
        "worker": ([sys.executable, "-m", *worker], {}),
    }


def _address(port: int) -> str:
    return f"http://{HOST}:{port}"


def _close_abandoned(checkout: Path, environment: Mapping[str, str]) -> None:
    """Close nights that did not come to a verdict in time, while the servers still answer."""
    if abandoned_nights(checkout, _LOOKED_AT):
        command = [sys.executable, "-m", "flows.abandoned"]
        run_child(command, checkout, environment=environment, limit_seconds=_CLOSE_SECONDS)


def start_night_server(checkout: Path) -> Callable[[], None]:
    """Start Prefect's server unless `PREFECT_API_URL` names one; return a call that waits for it.

    Prefect would start one itself, after importing all of it here; this one starts while this
    process still imports, which saves a night some seven seconds. It ends with this process, after
    Prefect's own exit handlers, which send what is left of the logs: so call it before any import
    of Prefect.
    """
    if os.environ.get("PREFECT_API_URL"):
        return lambda: None
    port = free_port()
    address = _address(port)
    command, secret = _prefect_server(checkout, port)
    environment = {**_prefect_environment(checkout, address), **secret}
    child = _start(checkout, "prefect", command, environment)
    atexit.register(end_child, child)
    os.environ["PREFECT_API_URL"] = os.environ[_OWN_SERVER] = f"{address}/api"
    return lambda: _wait(f"{address}/api/health", "prefect", checkout, child)


def _environment(checkout: Path, services: Services) -> Mapping[str, str]:
    """Return what servers and worker run with."""
    return _prefect_environment(checkout, services.prefect) | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        ROOT: str(checkout),
        # Prefect sends none unless asked to, and none more often than this.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # In memory, a restart would leave a promoter's slot taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }


def _prefect_environment(checkout: Path, address: str) -> dict[str, str]:
    """Return what a Prefect server at an address runs with, and what talks to it."""
    return child_environment() | {
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(checkout / STATE / "prefect")),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_API_AUTH_STRING": (secret := server_secret(checkout)),
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_API_HOST": HOST,
        # Pages of other sites that a browser shows must not be able to start flows.
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": address,
        # Runs and logs of nights that are over would fill its database.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs,orphans",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(_record_seconds(checkout)),
    }


def _record_seconds(checkout: Path) -> int:
    """Return for how long Prefect keeps a run that ended; its own default without the params."""
    params = read_yaml(path) if (path := checkout / "params" / "retention.yaml").exists() else {}
    return int(params.get("record_days", 90)) * 86_400


def server_secret(checkout: Path) -> str:
    """Return `USER:PASSWORD` of the Prefect servers that run here: the user's, else a random one.

    Raises:
        ConfigError: the file that holds it is open to others.
    """
    given = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if not given and not os.environ.get("PREFECT_API_URL"):
        given = os.environ.get("PREFECT_API_AUTH_STRING")
    return given or secret_file(checkout).read_text(encoding="utf-8").strip()


def mlflow_secret(checkout: Path) -> str:
    """Return `USER:PASSWORD` of the MLflow servers that run here.

    Raises:
        ConfigError: the file that holds it is open to others.
    """
    return mlflow_secret_file(checkout).read_text(encoding="utf-8").strip()


def _prefect_server(checkout: Path, port: int) -> _Command:
    """Return the command of a Prefect server, and the secret that it alone is told."""
    return guarded_command("prefect", HOST, port), {SECRET: server_secret(checkout)}


def _mlflow_command(checkout: Path, port: int) -> list[str]:
    own, given = own_store(checkout), os.environ.get("MLFLOW_TRACKING_URI", "")
    # Of a database that the user names it shows the runs; artifacts go where that store says.
    uri = given if is_database(given) else own.uri
    options = ["--store", uri, "--artifacts", own.artifacts.as_uri()]
    return guarded_command("mlflow", HOST, port, *options)


def _start(
    checkout: Path, name: str, command: Sequence[str], environment: Mapping[str, str]
) -> "subprocess.Popen[str]":
    """Start a child whose output goes to `.nightloom/logs/NAME.log`."""
    log = log_file(checkout, name)
    return start_server(command, checkout, log, environment, grace_seconds=_GRACE_SECONDS)


def log_file(checkout: Path, name: str) -> Path:
    """Return where a server's or a night's log lies."""
    return checkout / STATE / "logs" / f"{name}.log"


def _deploy(checkout: Path, environment: Mapping[str, str], deployments: Path) -> Sequence[str]:
    """Let Prefect's server hold what `flows.deploy` makes; return what it closed and started."""
    template = private_folder(checkout) / "job-template.json"
    template.write_text(json.dumps(_JOB_TEMPLATE), encoding="utf-8")
    command = [sys.executable, "-m", "flows.deploy", "--pool", POOL, "--template", str(template)]
    command += ["--prefect-file", str(deployments)]
    child = run_child(command, checkout, environment=environment)
    if child.code != 0:
        raise ConfigError(
            "\n".join(child.lines)[-4000:],
            "mend prefect.yaml, or the options given to `nightloom up`",
        )
    return _told(child)


def _told(child: ChildResult) -> Sequence[str]:
    """Return what a child printed that people are to read."""
    return [line.removeprefix(TOLD) for line in child.lines if line.startswith(TOLD)]


@dataclass(frozen=True)
class Schedule:
    """When nights start."""

    cron: str
    timezone: str


def write_deployments(
    checkout: Path, preset: str | None, overrides: Sequence[str], schedule: Schedule | None = None
) -> Path:
    """Write `prefect.yaml` for nights with a preset and overrides; return where.

    All that works in the nights' workspace gets both. A schedule stands in place of the file's own:
    `prefect deploy --cron` would add one to it.
    """
    content = yaml.safe_load((checkout / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        parameters = deployment.get("parameters", {})
        if "preset" in parameters:
            parameters.update(preset=preset, overrides=list(overrides))
        if deployment["name"] == "nightly" and schedule is not None:
            times = {"cron": schedule.cron, "timezone": schedule.timezone, "active": True}
            deployment["schedules"] = [times]
    path = private_folder(checkout) / "prefect.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def _check_startable(checkout: Path, *ports: int) -> None:
    keeper = find_keeper(checkout)
    if keeper is not None and keeper.is_kept:
        services = Services.read(checkout)
        what = "starting or stopping" if services is None else "up already"
        where = f"open {services.prefect} and {services.mlflow}, or " if services else ""
        raise ConfigError(
            f"the servers are {what}, kept by process {keeper.pid}",
            f"{where}stop them with `nightloom down`",
        )
    if keeper is not None:
        end_leftovers(keeper)
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise ConfigError(
                    f"port {port} is taken by another program",
                    "choose others with --prefect-port and --mlflow-port",
                ) from None


def _wait(url: str, name: str, checkout: Path, child: "subprocess.Popen[str]") -> None:
    """Wait until a server answers."""
    if not wait_for_answer(url, child, _START_SECONDS):
        raise ConfigError(
            f"{name} did not answer at {url}", f"read {log_file(checkout, name)}, its log"
        )
