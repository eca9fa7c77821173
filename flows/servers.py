"""Prefect, MLflow and the worker: start, find and stop them."""

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from flows import HOST
from flows.credentials import private_folder, secret_file
from flows.mlflow_store import own_store
from flows.process_file import ProcessFile, this_process
from flows.shutdown import TAG, Keeper, end_flows, end_leftovers
from flows.workspace import STATE
from tasks.services.databases import is_database
from tasks.services.processes import (
    child_environment,
    end_child,
    run_child,
    start_server,
    wait_for_answer,
)
from tasks.stage.errors import ConfigError

POOL = "nightloom"

_START_SECONDS = 180.0

# The address of a Prefect server that only this process and its children use.
_OWN_SERVER = "NIGHTLOOM_OWN_PREFECT"

_GRACE_SECONDS = 20.0

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


def shares_prefect(checkout: Path) -> bool:
    """Return whether others use the Prefect server that runs here talk to."""
    given = os.environ.get("PREFECT_API_URL")
    if given:
        return given != os.environ.get(_OWN_SERVER)
    return Services.read(checkout) is not None


@dataclass(frozen=True)
class Running:
    """Servers and the worker, as the process that started them holds them."""

    services: Services
    children: Mapping[str, "subprocess.Popen[str]"]

    def fallen(self) -> str | None:
        """Return the name of one that has ended by itself, None while all live."""
        dead = [name for name, child in self.children.items() if child.poll() is not None]
        return dead[0] if dead else None


@contextmanager
def running_services(
    checkout: Path, prefect_port: int, mlflow_port: int, deployment: list[str]
) -> Iterator[Running]:
    """Start both servers and a worker with the schedule deployed; stop them as the block ends.

    Raises:
        ConfigError: they are up already, a port is taken, or one did not come up.
    """
    _check_startable(checkout, prefect_port, mlflow_port)
    pid, started = this_process()
    keeper = Keeper(pid=pid, started=started)
    services = Services(
        pid=pid,
        started=started,
        prefect=f"http://{HOST}:{prefect_port}",
        mlflow=f"http://{HOST}:{mlflow_port}",
    )
    environment = {**_environment(checkout, services), TAG: keeper.tag}
    mlflow = _mlflow_arguments(checkout, mlflow_port)
    children: dict[str, subprocess.Popen[str]] = {}

    def start(name: str, *command: str) -> None:
        children[name] = _start(checkout, name, command, environment)

    Services.remove(checkout)  # of one that was killed
    keeper.write(checkout)  # `down` must find what has started, up or not
    try:
        start("prefect", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port))
        start("mlflow", "mlflow", *mlflow)
        _wait(f"{services.prefect_api}/health", "prefect", checkout, children["prefect"])
        _wait(f"{services.mlflow}/health", "mlflow", checkout, children["mlflow"])
        _deploy(checkout, environment, deployment)
        start("worker", "prefect", "worker", "start", "--pool", POOL, "--type", "process")
        services.write(checkout)
        yield Running(services, children)
    finally:
        Services.remove(checkout)
        end_flows(keeper)
        _stop(children)
        end_leftovers(keeper)
        Keeper.remove(checkout)


def start_night_server(checkout: Path) -> Callable[[], None]:
    """Start Prefect's server unless `PREFECT_API_URL` names one; return a call that waits for it.

    Prefect would start one itself, after importing all of it here; this one starts while this
    process still imports, which saves a night some seven seconds. It ends with this process, after
    Prefect's own exit handlers, which send what is left of the logs: so call it before any import
    of Prefect.
    """
    if os.environ.get("PREFECT_API_URL"):
        return lambda: None
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = str(probe.getsockname()[1])
    address = f"http://{HOST}:{port}"
    command = ("prefect", "server", "start", "--host", HOST, "--port", port)
    child = _start(checkout, "prefect", command, _prefect_environment(checkout, address))
    atexit.register(end_child, child)
    os.environ["PREFECT_API_URL"] = os.environ[_OWN_SERVER] = f"{address}/api"
    return lambda: _wait(f"{address}/api/health", "prefect", checkout, child)


def _environment(checkout: Path, services: Services) -> Mapping[str, str]:
    """Return what servers and worker run with."""
    return _prefect_environment(checkout, services.prefect) | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "NIGHTLOOM_ROOT": str(checkout),
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
    }


def server_secret(checkout: Path) -> str:
    """Return `USER:PASSWORD` of the Prefect servers that run here: the user's, else a random one.

    Raises:
        ConfigError: the file that holds it is open to others.
    """
    given = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if not given and not os.environ.get("PREFECT_API_URL"):
        given = os.environ.get("PREFECT_API_AUTH_STRING")
    return given or secret_file(checkout).read_text(encoding="utf-8").strip()


def _mlflow_arguments(checkout: Path, port: int) -> list[str]:
    own, given = own_store(checkout), os.environ.get("MLFLOW_TRACKING_URI", "")
    # Of a database that the user names it shows the runs; artifacts go where that store says.
    uri = given if is_database(given) else own.uri
    return [
        *("server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", uri),
        *("--artifacts-destination", own.artifacts.as_uri()),
    ]


def _start(
    checkout: Path, name: str, command: tuple[str, ...], environment: Mapping[str, str]
) -> "subprocess.Popen[str]":
    """Start a child whose output goes to `.nightloom/logs/NAME.log`."""
    whole, log = [sys.executable, "-m", *command], log_file(checkout, name)
    return start_server(whole, checkout, log, environment, grace_seconds=_GRACE_SECONDS)


def log_file(checkout: Path, name: str) -> Path:
    """Return where a server's or a night's log lies."""
    return checkout / STATE / "logs" / f"{name}.log"


def _deploy(checkout: Path, environment: Mapping[str, str], deployment: list[str]) -> None:
    """Let Prefect's server hold what `flows.deploy` makes."""
    template = private_folder(checkout) / "job-template.json"
    template.write_text(json.dumps(_JOB_TEMPLATE), encoding="utf-8")
    command = [sys.executable, "-m", "flows.deploy", "--pool", POOL, "--template", str(template)]
    child = run_child([*command, *deployment], checkout, environment=environment)
    if child.code != 0:
        raise ConfigError(
            "\n".join(child.lines)[-4000:],
            "mend prefect.yaml, or the options given to `nightloom up`",
        )


def write_schedule(checkout: Path, cron: str, timezone: str) -> Path:
    """Write `prefect.yaml` with one schedule for the nights in place of its own; return where.

    `prefect deploy --cron` adds one to those of the file.
    """
    content = yaml.safe_load((checkout / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        if deployment["name"] == "nightly":
            deployment["schedules"] = [{"cron": cron, "timezone": timezone, "active": True}]
    path = private_folder(checkout) / "prefect.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def _check_startable(checkout: Path, *ports: int) -> None:
    keeper = Keeper.last(checkout)
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


def _stop(children: Mapping[str, "subprocess.Popen[str]"]) -> None:
    """End the worker, which still says so to the servers, and then these."""
    if "worker" in children:
        end_child(children["worker"])
    for child in children.values():
        if child.poll() is None:
            child.terminate()
    for child in children.values():
        child.wait()
