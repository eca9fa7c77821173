"""`nightloom compare`: what is meant by a name, what became better, and what can't be told."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.environment import find_stores
from tasks.orchestration.tracking import Tracker
from tasks.promotion.comparison import Side, compare_systems
from tasks.promotion.params import PromotionParams
from tasks.records.predictions import Prediction
from tasks.registry.client import Registry
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import output_folders
from tasks.stage.params import read_yaml
from tests.builders.evaluation_report import answered, write_evaluation

pytestmark = pytest.mark.slow

PARAMS = PromotionParams.model_validate(
    read_yaml(Path("params/promotion.yaml")) | {"resamples": 500}
)
NUMBERS = range(12)


def rows(scores: Sequence[float], system: str = "adapter", **given: Any) -> list[Prediction]:
    return [
        answered(
            score,
            **{"system": system, "mode": "retrieved", "record": f"r{number}",
               "slice": "한국어" if number % 2 else "[b]en", "question": f"서울 {number}?",
               "reference": "수도", "output": f"\x1b[31m{system} [red]{number}"} | given,
        )
        for number, score in enumerate(scores)
    ]  # fmt: skip


def side(name: str, scores: Sequence[float], **given: Any) -> Side:
    return Side(name, "adapter", tuple(rows(scores, **given)))


def held(left: Side, right: Side, **given: Any) -> Any:
    chosen: dict[str, Any] = {"mode": "retrieved", "metric": "token_f1", "changes": 10}
    return compare_systems(left, right, **chosen | given, params=PARAMS)


def test_a_gain_on_every_record_has_its_known_difference_and_verdict() -> None:
    found = held(side("a", [0.25] * 12), side("b", [0.75] * 12))
    assert (found.verdict, found.records) == ("better", 12)
    whole = found.modes["retrieved"]
    assert (whole.left, whole.right, whole.difference) == (0.25, 0.75, 0.5)
    assert (whole.low, whole.high) == (0.5, 0.5)
    assert held(side("b", [0.75] * 12), side("a", [0.25] * 12)).verdict == "worse"
    assert held(side("a", [0.5] * 12), side("a", [0.5] * 12)).verdict == "no difference that shows"


def test_slices_hold_their_own_records_and_differences() -> None:
    right = [0.5 + 0.25 * (number % 2) for number in NUMBERS]
    found = held(side("a", [0.5] * 12), side("b", right))
    assert {name: row.difference for name, row in found.slices.items()} == {
        "한국어": 0.25,
        "[b]en": 0.0,
    }
    assert {row.records for row in found.slices.values()} == {6}


def test_every_difference_has_its_chance_its_correction_and_its_power() -> None:
    left, right = [0.5] * 12, [0.5 + 0.05 * number for number in NUMBERS]
    both = [side(name, scores) for name, scores in (("a", left), ("b", right))]
    closed = [side(name, scores, mode="closed_book") for name, scores in (("a", left), ("b", left))]
    whole = [
        replace(one, predictions=one.predictions + other.predictions)
        for one, other in zip(both, closed, strict=True)
    ]
    found = held(*whole)
    gain, none = found.modes["retrieved"], found.modes["closed_book"]
    # The first record does not differ: eleven signs, and two of their 2048 patterns go as far.
    assert gain.p_value < 0.01
    assert gain.p_value_holm == pytest.approx(2 * gain.p_value)
    assert 0.1 < gain.smallest_detectable < 0.25
    assert (none.p_value, none.smallest_detectable) == (1.0, None)
    assert "no variance" in str(none.smallest_detectable_reason)
    assert {row.p_value_holm >= row.p_value for row in found.slices.values()} == {True}


def test_what_changed_most_comes_first_losses_before_gains_and_at_most_ten() -> None:
    right = [0.5, 1.0, 0.0, *[0.6] * 9]
    found = held(side("a", [0.5] * 12), side("b", right))
    assert [change.record for change in found.changed[:3]] == ["r2", "r1", "r10"]
    assert len(found.changed) == 10
    assert len(held(side("a", [0.5] * 3), side("b", [0.5, 0.5, 0.6])).changed) == 1


def test_only_records_that_both_were_asked_the_same_way_count() -> None:
    right = side("b", [0.9] * 12)
    edited = [replace(row, reference="東京") for row in right.predictions[:2]]
    more = replace(right.predictions[0], record="new")
    right = replace(right, predictions=(*edited, *right.predictions[2:], more))
    found = held(side("a", [0.5] * 10), right)
    assert (found.records, found.only_left, found.only_right) == (8, 2, 5)


def test_sides_without_a_common_record_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match="share no record in mode retrieved") as error:
        held(side("a", [0.5] * 3), side("b", [0.5] * 3, question="other"))
    assert "one data set" in error.value.remedy


def test_modes_and_metrics_that_are_not_there_are_refused_by_what_is() -> None:
    with pytest.raises(ConfigError, match=r"not asked in mode oracle; it was in retrieved"):
        held(side("a", [0.5]), side("b", [0.5]), mode="oracle")
    with pytest.raises(ConfigError, match="expected one of exact_match, token_f1"):
        held(side("a", [0.5]), side("b", [0.5]), metric="latency_ms")


@dataclass(frozen=True)
class Project:
    """A checkout with two nights in MLflow, each with a version of both models."""

    root: Path
    runs: tuple[str, str]


def evaluation(score: float, records: int = 12) -> list[Prediction]:
    scores = {"base": 0.1, "adapter": score, "student": score - 0.1, "control": 0.2}
    return [
        row
        for system, value in scores.items()
        for mode in ("retrieved", "closed_book")
        for row in rows([value] * records, system, mode=mode)
    ]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    for name in ("prefect.yaml", "dvc.yaml"):
        shutil.copyfile(name, root / name)
    shutil.copytree("params", root / "params")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        stores = find_stores(root)
    tracker, registry = Tracker(stores), Registry(stores)
    made = root / "made"
    with output_folders(made / "artifacts" / "bundle"):
        pass
    runs = []
    for number, (score, records) in enumerate(((0.5, 12), (0.75, 10))):
        folder = write_evaluation(
            root / "reports" / str(number) / "evaluation", evaluation(score, records)
        )
        run = tracker.begin_night(f"2026-11-2{number}T003000Z", {})
        tracker.log_files(run, [folder], "reports")
        for model in ("adapter", "student"):
            registry.register(model, f"key{number}", lambda: made, run, {})
        runs.append(run.run_id)
    tracker.begin_night("2026-11-25T003000Z", {})
    registry.point("adapter", "production", 1)
    registry.point("adapter", "candidate", 2)
    return Project(root, (runs[0], runs[1]))


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def invoke(project: Project, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments, "--root", str(project.root)])


def test_nights_runs_versions_aliases_and_folders_mean_the_same_evaluations(
    project: Project,
) -> None:
    lefts = ("2026-11-20T003000Z", project.runs[0], "1", "nightloom-adapter/1", "production",
             "nightloom-adapter@production",
             str(project.root / "reports/0/evaluation"))  # fmt: skip
    rights = ("2026-11-21T003000Z", project.runs[1], "2", "nightloom-adapter/2", "candidate",
              "nightloom-adapter@candidate",
              str(project.root / "reports/1/evaluation"))  # fmt: skip
    answers = set()
    for left, right in zip(lefts, rights, strict=True):
        done = invoke(project, left, right, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert (found.pop("left"), found.pop("right")) == (left, right)
        answers.add(json.dumps(found))
    [answer] = answers
    found = json.loads(answer)
    assert (found["verdict"], found["records"], found["only_left"]) == ("better", 10, 2)
    assert found["modes"]["retrieved"]["difference"] == pytest.approx(0.25)


def test_a_students_version_stands_for_what_was_offered_and_a_system_can_be_named(
    project: Project,
) -> None:
    for arguments, system in (
        (("nightloom-student/1", "nightloom-student/2"), "student"),
        (("1", "2", "--model", "student"), "student"),
        (("1", "2", "--system", "control"), "control"),
    ):
        found = json.loads(invoke(project, *arguments, "--json").stdout)
        assert (found["left_system"], found["right_system"]) == (system, system)


def test_people_are_told_of_records_left_out_and_see_what_models_wrote_as_text(
    project: Project,
) -> None:
    done = invoke(project, "1", "2", "--mode", "closed_book", "--metric", "chrf")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.stdout.split())
    assert "compared on the 10 that both share; 2 of A's and 0 of B's are left out" in shown
    assert "B is better: +0.250 chrf in mode closed_book" in shown
    assert "[31madapter [red]0" in shown
    assert "\x1b[31m" not in done.stdout
    assert "[b]en" in shown


@pytest.mark.parametrize("name", ["nosuch", "7", "staging", "nightloom-student/9", "a'b"])
def test_a_name_that_says_nothing_is_refused_with_what_there_is(
    project: Project, name: str
) -> None:
    done = invoke(project, name, "1", "--json")
    assert done.exit_code == 1
    message = json.loads(done.stdout)["error"]["message"]
    assert "2026-11-21T003000Z, 2026-11-20T003000Z" in message
    assert "nightloom-adapter 1, 2, candidate (2), production (1)" in message


def test_what_holds_no_evaluation_is_refused(project: Project, tmp_path: Path) -> None:
    for name, said in (
        ("2026-11-25T003000Z", "has no evaluation in MLflow"),
        (str(tmp_path), "holds no metrics.json and no predictions.parquet"),
        ("0" * 32, "MLflow has no run"),
    ):
        done = invoke(project, name, "1", "--json")
        assert done.exit_code == 1
        assert said in json.loads(done.stdout)["error"]["message"]


def test_systems_that_were_not_scored_are_refused_by_those_that_were(project: Project) -> None:
    done = invoke(project, "1", "2", "--system", "reigning", "--json")
    assert done.exit_code == 1
    message = json.loads(done.stdout)["error"]["message"]
    assert "it was scored with base, adapter, student, control" in message
