"""A reigning bundle scored again: alone, as in its own night, once, and never silently."""

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluation import rescoring
from tasks.orchestration import rescore as rescoring_task
from tasks.orchestration.rescore import Tonight, rescore, rescore_earlier, spread_evenly
from tasks.orchestration.tracking import Tracker
from tasks.promotion.evidence import EarlierFiles, UnscoredChampion
from tasks.records.predictions import read_likelihoods, read_predictions
from tasks.records.schema import ServedModel, read_records, write_records
from tasks.registry.client import Registry
from tasks.registry.ledger import Ledger
from tasks.registry.promote import record_verdict
from tasks.registry.versions import Version
from tasks.scoring.identity import scoring_sha256
from tasks.scoring.label_scores import label_scoring_sha256
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError, DataError, DeviceError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import ComputeParams, read_yaml
from tests.builders.packaging import PACKAGING, forge_prompt_ids, package
from tests.builders.registry import policies

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(
    tiny: Any, scored: Any, prompting: Any, models: Any, compute: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    from tasks.packaging.__main__ import Params

    shared = {"prompting": prompting, "models": models, "compute": compute}
    packaging = PACKAGING | {"max_mismatch": 1.0}
    params = Params.model_validate(shared | {"packaging": packaging})
    root = tmp_path_factory.mktemp("bundle")
    return package(root, params, tiny, scored.index, scored.report)


def rescored(folder: Path, tiny: Any, path: Path, compute: ComputeParams, **changed: Any) -> Path:
    """The report on the bundle's model that a path names."""
    values = read_yaml(Path("params/evaluation.yaml")) | {"records": 8, "resamples": 200} | changed
    params = rescoring.Params.model_validate({"evaluation": values, "compute": compute})
    report = folder / "report"
    rescoring.run(
        params,
        rescoring.Paths(
            curated=tiny.curated,
            model_store=tiny.store,
            bundle=path,
            scratch=folder / "scratch",
            rescore_report=report,
        ),
    )
    return report


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_bundle_alone_says_and_finds_likely_what_it_did_in_its_night(
    tmp_path: Path, tiny: Any, scored: Any, bundle: Path, compute: ComputeParams, model: ServedModel
) -> None:
    report = rescored(tmp_path, tiny, bundle / model, compute)
    then, now = read_metrics(scored.report), read_metrics(report)
    system = model if model == "adapter" else then["offered"]["system"]
    expected = {
        row.record: row
        for row in read_predictions(scored.report / "predictions.parquet")
        if (row.system, row.mode) == (system, "retrieved")
    }
    found = read_predictions(report / "predictions.parquet")
    assert {row.record for row in found} == expected.keys()
    for row in found:
        old = expected[row.record]
        assert (row.system, row.mode, row.output) == (model, "retrieved", old.output)
        assert (row.token_f1, row.prompt_sha256) == (old.token_f1, old.prompt_sha256)
    packaged = bundle.parent / "report"
    likely = {
        row.record: row
        for row in read_likelihoods(packaged / "likelihoods.parquet")
        if row.system == model
    }
    assert likely.keys() == {record.id for record in read_records(tiny.curated / "test.jsonl")}
    measured = read_likelihoods(report / "likelihoods.parquet")
    assert len(measured) == len(likely)
    for one in measured:
        old_one = likely[one.record]
        assert (one.slice, one.tokens) == (old_one.slice, old_one.tokens)
        assert one.log_likelihood == pytest.approx(old_one.log_likelihood, abs=1e-3)
    assert now["test_split"] == then["test_split"]
    assert now["likelihood_sha256"] == read_metrics(packaged)["likelihood_sha256"]
    assert len(set(now["test_split"].values())) > 1
    assert list(now["systems"]) == [model]
    assert "golden_objection" not in now
    # The tiny splits are all alike, so all of the test split was learned.
    assert now["learned"] == [row.id for row in read_records(tiny.curated / "test.jsonl")]


def test_a_bundle_that_answers_its_golden_prompts_otherwise_is_scored_and_says_so(
    tmp_path: Path, tiny: Any, bundle: Path, compute: ComputeParams
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    (copy / "learned.npy").unlink()  # as a bundle of before
    forge_prompt_ids(copy)
    now = read_metrics(rescored(tmp_path, tiny, copy / "adapter", compute))
    assert "golden prompt 1 of 4" in now["golden_objection"]
    assert now["learned"] is None


def test_what_is_scored_otherwise_says_so(
    tmp_path: Path, tiny: Any, scored: Any, bundle: Path, compute: ComputeParams
) -> None:
    then = read_metrics(scored.report)["test_split"]
    for changed, name in (
        ({"records": 7}, "scored_sha256"),
        ({"abstentions": ["No idea"]}, "scoring_sha256"),
    ):
        report = rescored(tmp_path / name, tiny, bundle / "student", compute, **changed)
        now = read_metrics(report)["test_split"]
        assert {key for key in now if now[key] != then[key]} == {name}


def test_what_is_no_bundle_is_not_scored_again(
    tmp_path: Path, tiny: Any, compute: ComputeParams
) -> None:
    with pytest.raises(ConfigError, match="is no release bundle"):
        rescored(tmp_path, tiny, tiny.student, compute)


def test_a_bundle_with_a_changed_byte_is_not_scored_again(
    tmp_path: Path, tiny: Any, bundle: Path, compute: ComputeParams
) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    (broken / "settings.json").write_bytes((broken / "settings.json").read_bytes() + b" ")
    with pytest.raises(DataError, match=r"settings\.json"):
        rescored(tmp_path, tiny, broken / "adapter", compute)


@dataclass
class World:
    """A night in a workspace of its own with a real registry, and the children that it started."""

    tonight: Tonight
    registry: Registry
    tracker: Tracker
    ledger: Ledger
    commands: list[list[str]]

    def register(
        self, bundle: Path, folder: Path, key: str, model: ServedModel = "adapter"
    ) -> Version:
        """A new version of a bundle, and the run of its night."""
        shutil.copytree(bundle, folder / "artifacts" / "bundle")
        run = self.tracker.begin_night(key, {})
        return self.registry.register(model, key, lambda: folder, run, {})

    def record(self, version: Version) -> None:
        """Keep tonight's reports in the run of a version's night, as nights do."""
        run = replace(self.tracker.begin_night("unused", {}), run_id=version.run_id)
        reports = [self.tonight.evaluation, self.tonight.packaging]
        self.tracker.log_files(run, reports, "reports")

    def rescore(self, version: Version) -> Any:
        """What the task finds."""
        return rescore.fn(version, self.tonight, self.registry, self.tracker)


@pytest.fixture
def world(
    tmp_path: Path,
    tiny: Any,
    scored: Any,
    bundle: Path,
    compute: ComputeParams,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    root = tmp_path / "root"
    (root / "params").mkdir(parents=True)
    (root / "tasks").symlink_to(Path("tasks").resolve())
    values = read_yaml(Path("params/evaluation.yaml")) | {"records": 8, "resamples": 200}
    for name, content in (
        ("evaluation", values),
        ("compute", compute.model_dump()),
        ("prompting", read_yaml(Path("params/prompting.yaml"))),
        ("promotion", read_yaml(Path("params/promotion.yaml"))),
    ):
        (root / "params" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    report, packaged = tmp_path / "evaluation", tmp_path / "packaging"
    shutil.copytree(scored.report, report)
    shutil.copytree(bundle.parent / "report", packaged)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    stores = Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    tonight = Tonight(root, report, packaged, tiny.curated, tiny.store, tmp_path / "scratch")
    registry = Registry(stores)
    found = World(tonight, registry, Tracker(stores), Ledger(stores, registry), [])
    run_child = rescoring_task.run_child

    def counted(command: Any, *given: Any) -> Any:
        found.commands.append(list(command))
        return run_child(command, *given)

    monkeypatch.setattr(rescoring_task, "run_child", counted)
    # A task's own function has no run to log to.
    monkeypatch.setattr(rescoring_task, "get_run_logger", lambda: logging.getLogger("rescore"))
    return found


def test_the_base_and_the_candidate_itself_are_not_scored_again(
    tmp_path: Path, world: World, bundle: Path
) -> None:
    version = world.register(bundle, tmp_path / "model", "first")
    assert world.rescore(version) is None
    world.registry.point("adapter", "staging", version.number)
    assert world.rescore(version) is None
    assert world.commands == []


def test_what_its_own_night_found_on_the_same_split_is_used(
    tmp_path: Path, world: World, bundle: Path
) -> None:
    reigning = world.register(bundle, tmp_path / "model", "first")
    world.record(reigning)
    world.registry.point("adapter", "production", reigning.number)
    candidate = replace(reigning, number=reigning.number + 1)
    for _ in range(2):  # downloaded, then kept
        found = world.rescore(candidate)
        assert found is not None
        assert (found.name, found.system) == (f"production:{reigning.number}", "adapter")
        rows = read_predictions(found.report / "predictions.parquet")
        assert rows == read_predictions(world.tonight.evaluation / "predictions.parquet")
        [kept] = {path.read_bytes() for path in found.likely.parent.rglob("likelihoods.parquet")}
        assert kept == (world.tonight.packaging / "likelihoods.parquet").read_bytes()
    assert world.commands == []


def test_a_students_record_is_that_of_the_one_that_was_offered(
    tmp_path: Path, world: World, bundle: Path
) -> None:
    reigning = world.register(bundle, tmp_path / "model", "first", "student")
    world.record(reigning)
    world.registry.point("student", "staging", reigning.number)
    found = world.rescore(replace(reigning, number=reigning.number + 1))
    assert found is not None
    offered = read_metrics(world.tonight.evaluation)["offered"]["system"]
    assert (found.name, found.system) == (f"staging:{reigning.number}", offered)


def test_on_another_split_the_bundle_is_scored_once_and_again_where_the_memo_is_torn(
    tmp_path: Path, world: World, bundle: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reigning = world.register(bundle, tmp_path / "model", "first")
    world.record(reigning)
    world.registry.point("adapter", "production", reigning.number)
    candidate = replace(reigning, number=reigning.number + 1)
    changed_split(world, tiny, tmp_path / "curated")
    found = world.rescore(candidate)
    assert found is not None
    assert (found.name, found.system) == (f"production:{reigning.number}", "adapter")
    rows = read_predictions(found.report / "predictions.parquet")
    assert all(row.question.startswith("And what") for row in rows)
    assert world.rescore(candidate) == found
    assert len(world.commands) == 1
    scored_again: list[Path] = []
    monkeypatch.setattr(rescoring_task, "_score", lambda *given: scored_again.append(given[-1]))
    assert world.rescore(candidate) == found
    (found.report / "predictions.parquet").write_bytes(b"torn")
    assert world.rescore(candidate) == found
    assert scored_again == [found.report]


def changed_split(world: World, tiny: Any, folder: Path) -> None:
    """The questions of the test split are other ones tonight."""
    shutil.copytree(tiny.curated, folder)
    rows = []
    for row in read_records(folder / "test.jsonl"):
        question, answer = row.messages
        other = replace(question, content=f"And what {question.content}")
        rows.append(replace(row, messages=(other, answer)))
    write_records(folder / "test.jsonl", rows)
    write_manifest(folder)
    metrics = read_metrics(world.tonight.evaluation)
    metrics["test_split"]["scored_sha256"] = "0" * 64
    (world.tonight.evaluation / "metrics.json").write_text(json.dumps(metrics))
    world.tonight = replace(world.tonight, curated=folder)


def test_a_champion_of_an_older_version_of_the_scoring_is_scored_again_by_todays(
    tmp_path: Path, world: World, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = read_metrics(world.tonight.evaluation)
    tonights = metrics["test_split"]["scoring_sha256"]
    markers = read_yaml(Path("params/evaluation.yaml"))["abstentions"]
    assert tonights == scoring_sha256(markers)
    reigning = world.register(bundle, tmp_path / "model", "first")
    for scoring in (scoring_sha256(markers, 1), tonights):  # its own night, then tonight
        metrics["test_split"]["scoring_sha256"] = scoring
        (world.tonight.evaluation / "metrics.json").write_text(json.dumps(metrics))
        if scoring != tonights:
            world.record(reigning)
    world.registry.point("adapter", "production", reigning.number)
    with caplog.at_level("INFO"):
        found = world.rescore(replace(reigning, number=reigning.number + 1))
    assert found is not None
    assert len(world.commands) == 1
    assert "was scored by version 1 of the scoring, tonight by version 2" in caplog.text
    assert read_metrics(found.report)["test_split"] == metrics["test_split"]


def test_a_champion_that_cannot_be_scored_is_told_with_its_reason(
    tmp_path: Path, world: World, bundle: Path
) -> None:
    reigning = world.register(bundle, tmp_path / "model", "first")
    world.registry.point("adapter", "production", reigning.number)
    world.tonight = replace(world.tonight, model_store=tmp_path)
    found = world.rescore(replace(reigning, number=reigning.number + 1))
    assert isinstance(found, UnscoredChampion)
    assert found.name == f"production:{reigning.number}"
    assert found.why.startswith("rescoring: ")


def test_a_champion_of_another_task_is_told_and_not_scored(
    tmp_path: Path, world: World, bundle: Path
) -> None:
    reigning = world.register(bundle, tmp_path / "model", "first")
    world.registry.point("adapter", "production", reigning.number)
    metrics = read_metrics(world.tonight.evaluation) | {"task": {"name": "classify"}}
    metrics["test_split"]["scoring_sha256"] = label_scoring_sha256()
    (world.tonight.evaluation / "metrics.json").write_text(json.dumps(metrics))
    found = world.rescore(replace(reigning, number=reigning.number + 1))
    assert isinstance(found, UnscoredChampion)
    assert "was trained for task answer, tonight's for classify" in found.why
    assert world.commands == []


def test_a_scoring_that_may_succeed_the_next_time_fails_the_release(
    tmp_path: Path, world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reigning = world.register(bundle, tmp_path / "model", "first")
    world.registry.point("adapter", "production", reigning.number)

    def full(*_: Any) -> None:
        raise DeviceError("the memory is full", "wait")

    monkeypatch.setattr(rescoring_task, "_score", full)
    with pytest.raises(DeviceError, match="memory is full"):
        world.rescore(replace(reigning, number=reigning.number + 1))


def test_a_run_that_was_deleted_leaves_the_bundle_to_be_scored(
    tmp_path: Path, world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reigning = world.register(bundle, tmp_path / "model", "first")
    world.registry.point("adapter", "production", reigning.number)
    gone = replace(reigning, number=reigning.number + 1)

    def none(*_: Any) -> bool:
        raise ConfigError("MLflow has no run", "look")

    monkeypatch.setattr(world.tracker, "download_report", none)
    monkeypatch.setattr(rescoring_task, "_score", lambda *given: given[-1].mkdir(parents=True))
    found = world.rescore(gone)
    assert found is not None
    assert found.report.parent.name == "rescored"


def champions(world: World, bundle: Path, folder: Path, count: int) -> list[Version]:
    """Versions that were in production one after the other, each of a bundle of its own."""
    found = []
    for number in range(1, count + 1):
        copy = folder / f"bundle {number}"
        shutil.copytree(bundle, copy)
        (copy / "README.md").write_text(f"card {number}")
        write_manifest(copy)
        version = world.register(copy, folder / f"model {number}", f"night-{number}")
        record_verdict(
            world.ledger, version, policies("automatic", "automatic"), promoted=True,
            reason="better", evidence={}, tags={},
        )  # fmt: skip
        found.append(version)
    return found


@pytest.fixture
def scorings(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The reports that were asked for; each is there at once."""
    found: list[Path] = []

    def score(_: Path, model: str, mode: str, tonight: Tonight, folder: Path, report: Path) -> None:
        found.append(report)
        report.mkdir(parents=True)
        (report / "metrics.json").write_text("{}")
        write_manifest(report)

    monkeypatch.setattr(rescoring_task, "_score", score)
    return found


def earlier(world: World, version: Version) -> EarlierFiles:
    return rescore_earlier.fn(version, world.tonight, world.ledger, world.tracker)


def test_earlier_champions_are_scored_on_tonights_split_once(
    tmp_path: Path, world: World, bundle: Path, scorings: list[Path], tiny: Any
) -> None:
    *_, last = champions(world, bundle, tmp_path, 3)
    candidate = replace(last, number=9)
    found = earlier(world, candidate)
    assert [one.name for one in found.scored] == ["version 2", "version 1"]
    assert found.unscored == {}
    assert earlier(world, candidate) == found
    assert len(scorings) == 2  # a night without a new split scores nothing again
    assert [one.name for one in earlier(world, last).scored] == ["version 2", "version 1"]
    changed_split(world, tiny, tmp_path / "curated")
    assert earlier(world, candidate) != found
    assert len(scorings) == 4


def test_an_earlier_champion_that_cannot_be_scored_is_told_and_stops_nothing(
    tmp_path: Path, world: World, bundle: Path, scorings: list[Path]
) -> None:
    first, second, last = champions(world, bundle, tmp_path, 3)
    shutil.rmtree(world.registry.bundle("adapter", first.number, tmp_path).parent)
    world.registry.delete(second)
    found = earlier(world, replace(last, number=9))
    assert found.scored == ()
    assert found.unscored.keys() == {"version 2", "version 1"}
    assert "has no version 2" in found.unscored["version 2"]
    assert "version 1 holds no bundle" in found.unscored["version 1"]
    assert scorings == []


def test_of_many_champions_some_are_taken_evenly_and_the_oldest_always() -> None:
    assert spread_evenly([9, 8, 7, 6, 5, 4], 3) == [8, 6, 4]
    assert spread_evenly([9, 8, 7, 6], 3) == [8, 7, 6]
    assert spread_evenly([9, 8, 7], 1) == [7]
    assert spread_evenly([9, 8], 3) == [9, 8]
    assert spread_evenly([], 3) == []
