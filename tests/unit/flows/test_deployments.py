"""What `prefect deploy --all` makes of prefect.yaml, and a run of one of its deployments."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from flows import promoter
from flows.rollback import rollback
from tasks.registry.lock import PROMOTION_LIMIT
from tests.builders.prefect_server import prefect_server
from tests.builders.registry import Shop
from tests.fingerprint.clone import Clone

pytestmark = pytest.mark.slow

POOL = "nightloom"
OF_NIGHTS = {"preset": None, "overrides": []}
# name -> the flow's entrypoint and what a run gets where nobody says otherwise
DEPLOYMENTS = {
    "nightly/nightly": ("flows/nightly.py:nightly", OF_NIGHTS),
    "nightly/release": ("flows/nightly.py:nightly", OF_NIGHTS | {"only_release": True}),
    "rollback/rollback": ("flows/rollback.py:rollback", {"model": "adapter", "to": None}),
    "sweep/sweep": ("flows/sweep.py:sweep", OF_NIGHTS),
    "evaluation-full/evaluate": ("flows/evaluate.py:evaluate_fully", OF_NIGHTS),
    "approve/approve": ("flows/approve.py:approve", {}),
}


@dataclass(frozen=True)
class Project:
    """A clone whose registry has version 2 in production and 1 before it."""

    root: Path
    environment: dict[str, str]

    def prefect(self, *words: str) -> str:
        """Run `prefect WORDS` there, and return what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words], cwd=self.root,
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, reigned_store: Path) -> Iterator[Project]:
    """The clone after `prefect deploy --all` to a server of its own."""
    root = Clone.make(Path(), tmp_path_factory.mktemp("deployed") / "checkout").root
    Shop.open(root / ".nightloom", reigned_store)
    with prefect_server(tmp_path_factory):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
        # The server asks for the secret of this process, where an earlier test has set one.
        asked = "PREFECT_API_AUTH_STRING"
        kept |= {asked: os.environ[asked]} if asked in os.environ else {}
        environment = kept | {
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "PREFECT_HOME": str(root.parent / "prefect"),
            "PYTHONPATH": str(root),
            "NIGHTLOOM_ROOT": str(root),
        }
        found = Project(root, environment)
        found.prefect("work-pool", "create", POOL, "--type", "process")
        found.prefect("gcl", "create", PROMOTION_LIMIT, "--limit", "1")
        found.prefect("deploy", "--all")
        yield found


def deployed() -> dict[str, DeploymentResponse]:
    with get_client(sync_client=True) as client:
        flows: dict[Any, Flow] = {one.id: one for one in client.read_flows()}
        return {f"{flows[one.flow_id].name}/{one.name}": one for one in client.read_deployments()}


def test_all_of_them_are_deployed(project: Project) -> None:
    found = deployed()
    assert {name: (one.entrypoint, one.parameters) for name, one in found.items()} == DEPLOYMENTS
    assert {one.work_pool_name for one in found.values()} == {POOL}
    assert [name for name, one in found.items() if one.schedules] == ["nightly/nightly"]


def test_their_entrypoints_are_flows_that_take_these_parameters(project: Project) -> None:
    for name, one in deployed().items():
        assert one.entrypoint is not None
        file, _, function = one.entrypoint.partition(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        flow = getattr(module, function)
        assert flow.name == name.partition("/")[0]
        schema = one.parameter_openapi_schema
        assert schema is not None
        assert set(one.parameters) <= set(schema["properties"])
        assert one.enforce_parameter_schema


def test_two_of_a_kind_never_run_at_once(project: Project) -> None:
    bounded = {name for name, one in deployed().items() if one.global_concurrency_limit}
    assert bounded == set(DEPLOYMENTS) - {"approve/approve", "rollback/rollback"}


def run(project: Project, **parameters: object) -> FlowRun:
    """Run the rollback's deployment as a worker's child does, and return how it ended."""
    begun = run_deployment("rollback/rollback", parameters=parameters, timeout=0)
    project.prefect("flow-run", "execute", str(begun.id))
    with get_client(sync_client=True) as client:
        return client.read_flow_run(begun.id)


def test_a_deployment_runs_in_the_project(project: Project) -> None:
    found = run(project, reason="answers got worse", by="ann", to=3)
    assert found.state is not None
    assert found.state.type.value == "FAILED"
    assert "has no version 3; found 1, 2" in str(found.state.message)


def test_a_rollback_without_a_reason_or_a_name_is_refused(project: Project) -> None:
    for parameters in ({}, {"reason": "answers got worse"}, {"reason": "x", "by": "ann"}):
        with pytest.raises(PrefectHTTPStatusError, match="409"):
            run_deployment("rollback/rollback", parameters=parameters, timeout=0)


def test_the_rollback_moves_production_and_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ | project.environment)
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setattr(promoter, "rehearse", lambda *_: "8 of 8 golden prompts as recorded")
    state = rollback(
        reason="answers got worse", by=" ann ", root=str(project.root), return_state=True
    )
    assert state.is_completed()
    assert state.message == "adapter version 1 is in production again"
    entry = promoter.make_promoter(project.root).ledger.last("adapter")
    assert entry is not None
    assert (entry.kind, entry.by) == ("rolled_back", "ann")
    assert entry.reason.startswith("answers got worse (")
