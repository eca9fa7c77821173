"""A Prefect server of a test's own, whose schema one of xdist's workers makes for all of them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.services.loopback import free_port, wait_for_answer
from tests.builders.clones import made_once

_DATABASE = "prefect.db"
_START_SECONDS = 180.0
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


def _migrate(home: Path) -> None:
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    environment = os.environ | _QUIET | {"PREFECT_HOME": str(home)}
    subprocess.run(command, env=environment, check=True, capture_output=True)


def migrated_store(factory: pytest.TempPathFactory) -> Path:
    """Return an empty store of Prefect's with its schema, to be copied."""
    return made_once(factory, "migrated", _migrate) / _DATABASE


def copy_migrated_store(factory: pytest.TempPathFactory, home: Path) -> None:
    """Put such a store into a new home of Prefect's, where it would take its server seconds."""
    home.mkdir(parents=True, mode=0o700)
    shutil.copyfile(migrated_store(factory), home / _DATABASE)
    (home / _DATABASE).chmod(0o600)


@contextmanager
def prefect_server(factory: pytest.TempPathFactory, *, services: bool = False) -> Iterator[None]:
    """Let flows of this process talk to a server with an empty store, while the block lasts.

    `services` of the server look after schedules and automations.
    """
    home = factory.mktemp("prefect")
    shutil.copyfile(migrated_store(factory), home / _DATABASE)
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
    command += [] if services else ["--no-services"]
    environment = os.environ | _QUIET | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
    }  # fmt: skip
    address = f"http://127.0.0.1:{port}/api"
    with (home / "server.log").open("w") as log:
        child = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    try:
        assert wait_for_answer(f"{address}/health", child, _START_SECONDS), log.name
        with temporary_settings({PREFECT_API_URL: address}):
            yield
            # What was said last is sent while the server answers.
            APILogWorker.instance().drain()
            EventsWorker.drain_all()
    finally:
        child.terminate()
        child.wait()
