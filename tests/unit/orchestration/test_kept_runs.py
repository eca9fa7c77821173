"""What nights' runs keep is read where it lies: here without MLflow's server, elsewhere with it."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tasks.orchestration import kept_runs
from tasks.orchestration.kept_runs import LOCKS, KeptRuns
from tasks.orchestration.tracking import Tracker
from tasks.services.stores import RunRef, Stores
from tests.builders.registry import Shop

NIGHTS = 3


@pytest.fixture
def stores(tmp_path: Path, empty_store: Path) -> Stores:
    """Three nights that end, each with its locks, params and a report, and a stage of its own."""
    shop = Shop.open(tmp_path, empty_store)
    tracker = Tracker(shop.stores)
    for number in range(NIGHTS):
        place = tmp_path / f"night{number}"
        (place / "params").mkdir(parents=True)
        for name in ("dvc.lock", "raw.dvc", "report.html", "params/night.yaml"):
            (place / name).write_text(f"{name} of {number}")
        run = tracker.begin_night(f"night{number}", {})
        client = MlflowClient(shop.stores.tracking_uri)
        stage = RunRef(run.experiment_id, client.create_run(run.experiment_id).info.run_id)
        for one in (run, stage):
            tracker.log_files(one, [place / "report.html"], "reports")
        tracker.note(run, stages={"validation": stage.run_id})
        files = [place / name for name in ("dvc.lock", "raw.dvc", "params")]
        tracker.log_files(run, files, LOCKS)
        for one in (stage, run):
            tracker.end(one, finished=True)
    return shop.stores


def read(stores: Stores) -> tuple[object, list[Path]]:
    runs = KeptRuns(stores, nights=2, versions=[])
    return runs.locks(), runs.old_files()


def test_files_that_lie_here_are_read_without_a_request_for_each(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a request for one night's files")

    for name in ("list_artifacts", "download_artifacts"):
        monkeypatch.setattr(MlflowClient, name, refuse)
    locks, old = read(stores)
    assert locks == {
        "versions": [],
        "the last nights": [f"{name} of {n}" for n in (2, 1) for name in ("dvc.lock", "raw.dvc")],
    }
    assert [path.name for path in old] == ["report.html"] * 2, "of night 0 and of its stage"


def test_files_at_a_server_are_read_through_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = read(stores)
    monkeypatch.setattr(kept_runs, "local_path", lambda _: None)
    assert read(stores)[0] == here
