"""Flow runs are named after what they are, and their forms explain themselves."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect import Flow
from pydantic import TypeAdapter, ValidationError

from flows import evaluate, nightly, sweep
from flows.approve import approve
from flows.build import build
from flows.parameters import NightName, OverrideText
from flows.release import release
from tasks.orchestration import flow_runs

START = datetime(2026, 11, 28, 2, 30, tzinfo=UTC)
FLOWS = (nightly.nightly, sweep.sweep, evaluate.evaluate_fully, approve)


@pytest.mark.parametrize("flow", [build, release], ids=lambda flow: flow.name)
def test_a_sub_flow_is_named_after_its_night(flow: "Flow[Any, Any]") -> None:
    log = SimpleNamespace(now=SimpleNamespace(night="2026-11-28T023000Z"))
    assert isinstance(flow.flow_run_name, str)
    assert flow.flow_run_name.format(log=log) == f"{flow.name} 2026-11-28T023000Z"


@pytest.mark.parametrize("module", [nightly, sweep, evaluate], ids=lambda module: module.__name__)
def test_a_run_is_named_after_its_flow_and_its_time(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(parameters={}, scheduled_start_time=START)
    monkeypatch.setattr(module, "flow_run", now)
    name = {nightly: "nightly", sweep: "sweep", evaluate: "evaluation-full"}[module]
    assert module._run_name() == f"{name} 2026-11-28T023000Z"


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_parameter_of_a_form_is_described(flow: "Flow[Any, Any]") -> None:
    for name, schema in flow.parameters.properties.items():
        assert schema.get("description"), name
    fields = flow.parameters.properties
    if "overrides" in fields:
        assert fields["overrides"]["items"]["pattern"]
        assert "FILE.KEY=VALUE" in fields["overrides"]["description"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [(NightName, "../../etc/x"), (NightName, ".x"), (OverrideText, "epochs=2"), (OverrideText, "")],
)
def test_a_form_refuses_what_can_be_no_night_and_no_override(kind: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(text)


class FakeClient:
    """Prefect's client, with runs of its own; it keeps what it is told."""

    def __init__(self, *runs: SimpleNamespace) -> None:
        self.runs = {run.id: run for run in runs}

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing open."""

    def read_flow_runs(self, **_: object) -> list[SimpleNamespace]:
        return list(self.runs.values())

    def read_flow_run(self, run_id: object) -> SimpleNamespace:
        return next(run for run in self.runs.values() if run.id == run_id)

    def update_flow_run(self, run_id: object, **changes: object) -> None:
        vars(self.read_flow_run(run_id)).update(changes)


def planned(**changes: object) -> SimpleNamespace:
    content: dict[str, object] = {"id": uuid4(), "name": "sassy-heron", "tags": ["auto-scheduled"],
                                  "auto_scheduled": True, "expected_start_time": START}  # fmt: skip
    return SimpleNamespace(**content | changes)


def test_scheduled_nights_are_named_and_what_a_person_planned_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = FakeClient(planned(), planned(auto_scheduled=False, name="mine"))
    monkeypatch.setattr(flow_runs, "get_client", lambda **_: client)
    assert nightly.name_scheduled_nights() == ["nightly 2026-11-28T023000Z"]
    names = [run.name for run in client.runs.values()]
    assert names == ["nightly 2026-11-28T023000Z", "mine"]


def test_a_runs_verdict_is_added_to_its_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned()
    monkeypatch.setattr(flow_runs, "get_client", lambda **_: FakeClient(run))
    monkeypatch.setattr(flow_runs, "flow_run", SimpleNamespace(id=str(run.id)))
    flow_runs.tag_run(["refused", "adapter: refused"])
    assert run.tags == ["adapter: refused", "auto-scheduled", "refused"]


def test_the_schedule_s_deployment_is_named_like_the_flow() -> None:
    assert f"  - name: {nightly.nightly.name}\n" in Path("prefect.yaml").read_text()
