"""A flow run whose machine is gone is Crashed by the server alone, by the automation of `up`."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL

from tasks.orchestration import flow_runs
from tests.builders.prefect_server import prefect_server

pytestmark = pytest.mark.slow

# Each beats once as it begins; the one that ends says so, the other one is killed.
FLOW = """
import sys, time
from prefect import flow
@flow(name=sys.argv[1], persist_result=False)
def one():
    if sys.argv[1] == "killed":
        time.sleep(600)
one()
"""
SILENT_SECONDS = 12.0


def started(name: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    return subprocess.Popen([sys.executable, "-c", FLOW, name], env=environment)


def runs() -> dict[str, FlowRun]:
    with get_client(sync_client=True) as client:
        names = {one.id: one.name for one in client.read_flows()}
        return {names[run.flow_id]: run for run in client.read_flow_runs()}


def test_only_the_run_that_was_killed_is_crashed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_runs, "_SILENT_SECONDS", SILENT_SECONDS)
    with prefect_server(tmp_path_factory, services=True):
        flow_runs.make_heartbeat_watch()
        with get_client(sync_client=True) as client:
            [watch] = client.read_automations()
        assert watch.trigger.within == timedelta(seconds=SILENT_SECONDS)
        killed = started("killed")
        assert started("ended").wait(120) == 0
        deadline = time.monotonic() + 120
        while runs().get("killed") is None or runs()["killed"].state_type != StateType.RUNNING:
            assert time.monotonic() < deadline
            time.sleep(1)
        time.sleep(3)  # the heartbeat is sent from a thread
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        deadline = time.monotonic() + 120
        while (found := runs()["killed"]).state_type == StateType.RUNNING:
            assert time.monotonic() < deadline, "no automation looked after it"
            time.sleep(1)
        assert found.state_type == StateType.CRASHED
        assert found.state is not None
        assert found.state.message == "no heartbeat came any more"
        time.sleep(2 * SILENT_SECONDS)
        assert runs()["ended"].state_type == StateType.COMPLETED
