"""Runs in a real MLflow store on sqlite, and curves published while they grow."""

import json
import shutil
import time
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from tasks.orchestration.publish import CurvePublisher
from tasks.orchestration.run_content import metric_name
from tasks.orchestration.stages import Dependency, Stage
from tasks.orchestration.tracking import DataSet, Point, Tracker, source_tags
from tasks.records.predictions import write_predictions
from tasks.registry.client import Registry
from tasks.registry.ledger import Ledger
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError
from tests.builders.evaluation_report import answered

STAGE = Stage(
    name="curation",
    command="python -m tasks.curation",
    dependencies=(Dependency("data/raw", "abc.dir"),),
    outs=("data/curated",),
    params=("params/curation.yaml",),
    key="k" * 64,
    current=False,
)


@pytest.fixture(scope="module")
def stores(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    return Stores(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


@pytest.fixture(scope="module")
def tracker(stores: Stores) -> Tracker:
    return Tracker(stores)


@pytest.fixture(scope="module")
def client(stores: Stores) -> MlflowClient:
    return MlflowClient(stores.tracking_uri)


def test_a_retry_of_a_stage_goes_on_with_its_run(tracker: Tracker) -> None:
    night = tracker.begin_night("n1", {})
    first = tracker.begin_stage(night, STAGE)
    tracker.end(first, finished=False)
    assert tracker.begin_stage(night, STAGE) == first


def test_a_skipped_stage_links_to_the_run_that_made_its_output(tracker: Tracker) -> None:
    made = tracker.begin_stage(tracker.begin_night("n1", {}), STAGE)
    second = tracker.begin_night("n2", {})
    tracker.link_stage(second, STAGE)
    assert tracker.notes(second.run_id) == {"stages": {"curation": made.run_id}}


def test_the_machine_is_watched_without_a_line_on_the_console(
    tracker: Tracker, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker.begin_stage(tracker.begin_night("n9", {}), STAGE)
    with tracker.system_metrics(run):
        pass
    assert not [one for one in caplog.records if one.levelname == "INFO"]


@pytest.mark.slow
def test_a_nights_run_shows_people_their_tags_and_plumbing_lies_in_an_artifact(
    tracker: Tracker, client: MlflowClient
) -> None:
    night = tracker.begin_night("n8", source_tags(Path(), "flows/nightly.py"))
    tracker.begin_stage(night, STAGE)
    tracker.note(night, workspace="checkout")
    tags = client.get_run(night.run_id).data.tags
    own = {name for name in tags if not name.startswith("mlflow.")}
    assert own == {"nightloom.night", "nightloom.process"}
    assert tags["mlflow.source.name"] == "flows/nightly.py"
    assert tags["mlflow.user"]
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tracker.notes(night.run_id).keys() == {"stages", "workspace"}


def test_a_stage_that_a_run_of_before_links_by_a_tag_is_found(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    stage, night = tracker.begin_night("made", {}), tracker.begin_night("n9", {})
    client.set_tag(night.run_id, "nightloom.run.validation", stage.run_id)
    client.log_text(stage.run_id, "{}", "validation/metrics.json")
    target = tmp_path / "found"
    assert tracker.download_report(night.run_id, "validation", ["metrics.json"], target)
    assert (target / "metrics.json").read_text() == "{}"


def test_the_nights_are_shown_by_a_view_that_the_experiment_keeps(
    tracker: Tracker, client: MlflowClient
) -> None:
    tracker.begin_night("n10", {})
    tags = client.get_experiment(tracker.experiment).tags
    assert "one run a night" in tags["mlflow.note.content"]
    view = json.loads(tags["mlflow.sharedViewState.nights"])
    assert "metrics.`adapter.f1`" in view["selectedColumns"]


def test_params_metrics_inputs_and_files_of_a_run_are_kept(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    run = tracker.begin_night("n3", {})
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "curation.yaml").write_text("salt: x\ndeep:\n  share: 0.5\nlist: [1]\n")
    tracker.log_params(run, tmp_path, ["params/curation.yaml"])
    report = tmp_path / "report"
    report.mkdir()
    metrics = {"rows": {"kept": 3}, "note": "text", "none": None}
    metrics |= {"sizes": {"base": {"first_token_ms_p50": 1.0, "latency_ms_p95": 9.0}}}
    (report / "metrics.json").write_text(json.dumps(metrics))
    tracker.log_metrics(run, report)
    tracker.log_inputs(run, [DataSet("train", "a" * 64, "data/train", "training", {"num_rows": 3})])
    tracker.log_files(run, [report, tmp_path / "missing"])
    found = client.get_run(run.run_id)
    assert found.data.params == {
        "curation.salt": "x",
        "curation.deep.share": "0.5",
        "curation.list": "[1]",
    }
    assert found.data.metrics == {"rows/kept": 3.0}
    [item] = found.inputs.dataset_inputs
    assert (item.dataset.name, item.dataset.digest) == ("train", "a" * 32)
    assert (item.tags[0].value, item.dataset.profile) == ("training", '{"num_rows": 3}')
    assert [item.path for item in client.list_artifacts(run.run_id, "report")] == [
        "report/metrics.json"
    ]


KEYS = st.lists(st.text(max_size=12) | st.sampled_from(["", ".", "..", "a/b", ":", ":3a:"]),
                min_size=1, max_size=3)  # fmt: skip


@pytest.mark.slow
@given(KEYS, KEYS)
def test_any_metric_has_a_name_that_mlflow_takes_and_no_other_has(
    one: list[str], other: list[str]
) -> None:
    for path in (one, [*one, "x" * 300]):
        _validate_metric_name(metric_name(path))
        assert len(metric_name(path)) <= MAX_ENTITY_KEY_LENGTH
    assert (metric_name(one) == metric_name(other)) == (one == other)


def test_usual_metrics_keep_their_names_and_long_ones_stay_apart() -> None:
    assert metric_name(["systems", "base", "closed_book", "token_f1"]) == (
        "systems/base/closed_book/token_f1"
    )
    assert metric_name(["slices", "한국어"]) == "slices/한국어"
    long = ["y" * 300 + end for end in "ab"]
    assert metric_name(long[:1]) != metric_name(long[1:])


def test_metrics_of_slices_with_any_name_are_kept_apart(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    names = ["a:b/한국어?", "한국어", "", ".", "a.b", "a/b", "कि", "x" * 400]
    report = tmp_path / "report"
    report.mkdir()
    slices = {name: {"token_f1": number} for number, name in enumerate(names)}
    slices["a"] = {"b": {"token_f1": 99}}
    (report / "metrics.json").write_text(json.dumps({"slices": slices}))
    run = tracker.begin_night("n5", {})
    tracker.log_metrics(run, report)
    found = client.get_run(run.run_id).data.metrics
    assert sorted(found.values()) == [*range(len(names)), 99]
    assert found["slices/a:3a:b:2f:한국어:3f:/token_f1"] == 0
    assert found["slices/:/token_f1"] == 2


def test_the_table_of_answers_published_twice_holds_each_answer_once(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    rows = [
        answered(record=f"r{n}", system="base", mode="retrieved", output="서울\n", slice="한",
                 retrieved=("a#0", "b#1"))
        for n in range(3)
    ]  # fmt: skip
    write_predictions(tmp_path / "predictions.parquet", rows)
    run = tracker.begin_night("n6", {})
    client.log_table(run.run_id, {"own": [1]}, "other.json")
    tracker.log_predictions(run, tmp_path)
    tracker.log_predictions(run, tmp_path)
    tags = client.get_run(run.run_id).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [
        {"path": "other.json", "type": "table"},
        {"path": "answers.json", "type": "table"},
    ]
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        table = client.load_table(run.experiment_id, "answers.json", run_ids=[run.run_id])
    finally:
        mlflow.set_tracking_uri(None)
    assert list(table["record"]) == ["r0", "r1", "r2"]
    assert table.columns[0] == "answer"
    assert list(table["answer"]) == [f"base / retrieved / r{n}" for n in range(3)]
    assert set(table["output"]) == {"서울\n"}
    assert set(table["retrieved"]) == {"a#0\nb#1"}
    assert {"system", "mode", "slice", "reference", "token_f1"} <= set(table.columns)
    assert not {"prompt_sha256", "first_token_ms", "latency_ms"} & set(table.columns)


def test_a_report_without_predictions_gives_no_table(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    run = tracker.begin_night("n7", {})
    tracker.log_predictions(run, tmp_path)
    assert client.list_artifacts(run.run_id) == []


def test_a_point_published_twice_shows_once(tracker: Tracker, client: MlflowClient) -> None:
    run = tracker.begin_night("n4", {})
    point = Point("loss", 0.5, 3, 1000)
    tracker.log_points(run, [point])
    tracker.log_points(run, [point])
    assert len(client.get_metric_history(run.run_id, "loss")) == 1


def test_curves_are_published_while_they_grow_without_what_a_resume_kept(tmp_path: Path) -> None:
    curves = tmp_path / "curves.jsonl"
    now = time.time_ns() // 1_000_000
    earlier = now - 3_600_000  # the clock was set back meanwhile

    def line(step: int, when: int) -> str:
        return json.dumps(
            {"timestamp_ms": when, "step": step, "name": "loss", "value": 1.0, "unit": "nat"}
        )

    curves.write_text(line(1, now - 60_000) + "\n")
    published: list[Point] = []
    with CurvePublisher(tmp_path, published.extend, pytest.fail, interval_seconds=0.01):
        with curves.open("a") as stream:
            stream.write(line(2, earlier) + "\n" + line(3, earlier)[:10])
        deadline = time.monotonic() + 5
        while not published and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [point.step for point in published] == [2]
        with curves.open("a") as stream:
            stream.write(line(3, earlier)[10:] + "\n")
        while len(published) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        afresh = tmp_path / "afresh"  # a stage keeps what holds, and begins another file
        afresh.write_text(line(1, now - 60_000) + "\n" + 9 * (line(4, earlier) + "\n"))
        afresh.replace(curves)
    assert [point.step for point in published] == [2, 3] + 9 * [4]


def test_what_can_not_be_published_is_an_error_at_the_end(tmp_path: Path) -> None:
    def refuse(points: list[Point]) -> None:
        raise ConnectionError("no server")

    warned: list[str] = []
    with (
        pytest.raises(ConnectionError),
        CurvePublisher(tmp_path, refuse, warned.append, interval_seconds=0.01),
    ):
        time.sleep(0.1)
    assert warned


def test_an_experiment_that_somebody_deleted_is_told_with_the_way_back(
    stores: Stores, tmp_path: Path
) -> None:
    """MLflow finds nothing in it then: a ledger would look empty, and a night can't begin."""
    shutil.copyfile(stores.tracking_uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    deleted = Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    client, ledger = MlflowClient(deleted.tracking_uri), Ledger(deleted, Registry(deleted))
    ledger._run()
    Tracker(deleted)
    for name, use in (
        ("nightloom", lambda: Tracker(deleted)),
        ("nightloom", lambda: Registry(deleted)._uploads.of_key("adapter", "k")),
        ("nightloom-ledger", ledger.links),
    ):
        number = client.get_experiment_by_name(name).experiment_id
        client.delete_experiment(number)
        with pytest.raises(ConfigError, match=f"{name}.*was deleted") as caught:
            use()
        assert f"`mlflow experiments restore --experiment-id {number}`" in caught.value.remedy
        client.restore_experiment(number)
        use()
