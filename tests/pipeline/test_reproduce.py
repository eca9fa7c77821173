"""Stages through Prefect, DVC and MLflow themselves, on a project of two small ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from flows.graph import read_stage
from tasks.orchestration.reproduce import NightParams, reproduce
from tasks.orchestration.tracking import Tracker
from tasks.services.processes import TIME_LIMIT, StageError
from tasks.services.stores import EXPERIMENT, Stores
from tasks.stage.errors import DataError
from tasks.stage.params import StageParams, load_params
from tests.builders.dvc_project import write_project
from tests.builders.prefect_server import prefect_server

COPY = """
import json, pathlib, shutil, sys
scratch = pathlib.Path("data/scratch/copying")
scratch.mkdir(parents=True, exist_ok=True)
text = pathlib.Path("data/raw/rows").read_text()
if "bad" in text:
    failure = {"error": "DataError", "message": "a row is bad", "remedy": "mend it"}
    (scratch / "failure.json").write_text(json.dumps(failure))
    (scratch / "data_docs.html").write_text("<p>bad</p>")
    sys.exit(1)
target = pathlib.Path("data/reports/copying")
target.mkdir(parents=True)
(target / "metrics.json").write_text(json.dumps({"rows": len(text)}))
(target / "data_docs.html").write_text("<p>good</p>")
(target / "report.md").write_text("# Copied [Data Docs](data_docs.html)")
"""
PIPELINE = """
stages:
  copying:
    cmd: python copying.py
    deps: [data/raw, copying.py]
    params: [{params/copying.yaml: }]
    outs: [data/reports/copying]
"""


class _Params(StageParams):
    night: NightParams


@pytest.fixture(scope="module", autouse=True)
def _prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with prefect_server(tmp_path_factory):
        yield


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "params/copying.yaml": "share: 1\n",
        "data/raw/rows": "good\n",
        "copying.py": COPY,
        "dvc.yaml": PIPELINE,
    }
    return write_project(tmp_path, files)


@pytest.fixture
def tracker(project: Path) -> Tracker:
    return Tracker(Stores(f"sqlite:///{project / 'mlflow.db'}", project / "artifacts"))


def reproduced(project: Path, tracker: Tracker, **limits: float) -> tuple[str | None, Any]:
    """The name of the task's state, and its outcome or error."""

    @flow(validate_parameters=False, persist_result=False)
    def one_stage() -> tuple[str | None, Any]:
        night = tracker.begin_night("night", {})
        stage = read_stage(project, "copying")
        scratch = project / "data" / "scratch" / "copying"
        given = load_params(_Params, [Path("params/night.yaml")]).night
        bounds = given.model_copy(update=limits)
        state: Any = reproduce(stage, project, scratch, night, tracker, bounds, return_state=True)
        return state.name, state.result(raise_on_failure=False)

    return one_stage()


def test_a_stage_is_executed_then_skipped_then_restored(project: Path, tracker: Tracker) -> None:
    found = [reproduced(project, tracker), reproduced(project, tracker)]
    (project / "data/reports/copying/metrics.json").unlink()
    found.append(reproduced(project, tracker))
    assert [name for name, _ in found] == ["Executed", "Skipped", "Restored"]
    assert [outcome.state for _, outcome in found] == ["executed", "skipped", "restored"]


def test_a_failed_stage_says_why_and_its_last_good_outs_come_back(
    project: Path, tracker: Tracker
) -> None:
    reproduced(project, tracker)
    (project / "data/raw/rows").write_text("bad\n")
    name, error = reproduced(project, tracker)
    assert name == "Failed"
    assert isinstance(error, DataError)
    assert "copying: a row is bad" in error.message
    assert (project / "data/reports/copying/metrics.json").read_text() == '{"rows": 5}'


def test_a_stage_that_takes_too_long_is_ended_by_its_limit(project: Path, tracker: Tracker) -> None:
    (project / "copying.py").write_text("import time; print('begun', flush=True); time.sleep(600)")
    name, error = reproduced(project, tracker, stage_hours=8 / 3600)
    assert name == "Failed"
    assert isinstance(error, StageError)
    assert error.kind == TIME_LIMIT
    assert "copying: it was ended after 0.00222222 h" in error.message


def _artifacts(key: str) -> list[str]:
    """What Prefect keeps under a key, oldest first."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            sort=ArtifactSort.ID_DESC,
        )
    return [str(item.data) for item in sorted(found, key=lambda item: item.created)]


def test_data_docs_are_linked_from_prefect_and_mlflow_after_a_good_run_and_a_failed_one(
    project: Path, tracker: Tracker
) -> None:
    reproduced(project, tracker)
    page = project / "data/reports/copying/data_docs.html"
    assert "`nightloom up` starts one" in _artifacts("copying-data-docs")[-1]
    assert str(page) in _artifacts("copying-data-docs")[-1]
    assert "# Copied Data Docs (`data_docs.html`)" in _artifacts("copying-report")[-1]

    (project / "data/raw/rows").write_text("bad\n")
    reproduced(project, tracker)
    page = project / "data/scratch/copying/data_docs.html"
    assert str(page) in _artifacts("copying-data-docs")[-1]

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    [experiment] = [x for x in client.search_experiments() if x.name == EXPERIMENT]
    runs = client.search_runs([experiment.experiment_id], "run_name = 'copying'")
    folders = {"FINISHED": "copying", "FAILED": "scratch"}
    assert sorted(run.info.status for run in runs) == sorted(folders)
    for run in runs:
        folder = folders[run.info.status]
        there = client.list_artifacts(run.info.run_id, folder)
        assert "data_docs.html" in {Path(item.path).name for item in there}
        place = f"#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}/artifacts/"
        note = run.data.tags["mlflow.note.content"]
        assert note == f"Pages: [Data Docs]({place}{folder}/data_docs.html)."


def test_what_a_served_store_holds_is_linked_by_http_and_nothing_by_file(
    project: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "link", lambda page: f"http://127.0.0.1:5000/{page}")
    reproduced(project, tracker)
    for key, before in (("copying-data-docs", ""), ("copying-report", "# Copied [Data Docs](")):
        assert f"{before}http://127.0.0.1:5000/#/experiments/" in _artifacts(key)[-1]
        assert "file:" not in _artifacts(key)[-1]
