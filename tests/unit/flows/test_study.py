"""What a sweep remembers of its trials, in a real store of Optuna's."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.study import Study, SweepParams
from flows.workspace import Workspace
from tasks.orchestration.tracking import Point
from tasks.stage.errors import DataError

SETTINGS: dict[str, Any] = {
    "stage": "finetuning",
    "metric": "best_validation_loss",
    "goal": "minimize",
    "curve": "validation_loss",
    "trials": 4,
    "startup_trials": 1,
    "seed": 0,
    "space": {
        "finetuning.learning_rate": {"low": 1e-4, "high": 1e-2, "draw": "log"},
        "finetuning.epochs": {"low": 1.0, "high": 3.0, "draw": "whole"},
        "finetuning.rank": {"choices": [8, 16]},
    },
}


@pytest.fixture
def base(tmp_path: Path) -> Workspace:
    """A workspace with what a study's name is made of."""
    root = tmp_path / "base"
    (root / "params").mkdir(parents=True)
    names = (
        "raw",
        "accepted",
        "base",
        "embedder",
        "reranker",
        "student_base",
        "source_weights",
        "model_store",
        "scratch",
        "bundle",
    )
    names += ("curated", "evaluation_report", "curation_report", "validation_report")
    names += ("tokenization_report", "packaging_report")
    paths = "".join(f"{name}: data/{name}\n" for name in names)
    (root / "params" / "paths.yaml").write_text(paths)
    (root / "params" / "finetuning.yaml").write_text("rank: 8\n")
    (root / "data" / "raw").mkdir(parents=True)
    for name in ("raw/rows.jsonl", "base", "embedder", "reranker", "student_base"):
        (root / "data" / name).write_text(name)
    return Workspace(root, root, ())


def study(base: Workspace, **changes: object) -> Study:
    params = SweepParams.model_validate(SETTINGS | changes)
    return Study(base, params, base.path)


def write_curve(scratch: Path, losses: list[float]) -> None:
    """The evaluations of a training, every five steps, and the one before the first step."""
    scratch.mkdir(exist_ok=True)
    points = [(0, 9.0), *((5 * number + 5, loss) for number, loss in enumerate(losses))]
    lines = [
        json.dumps({"timestamp_ms": 0, "step": step, "name": "validation_loss", "value": loss})
        for step, loss in points
    ]
    (scratch / "curves.jsonl").write_text("".join(f"{line}\n" for line in lines))


def shown(loss: float) -> Point:
    return Point("validation_loss", loss, 5, 0)


def test_values_are_drawn_from_the_space(base: Workspace) -> None:
    for _ in range(8):
        _, values = study(base).ask()
        assert 1e-4 <= float(values["finetuning.learning_rate"]) <= 1e-2
        assert values["finetuning.epochs"] in (1, 2, 3)
        assert isinstance(values["finetuning.epochs"], int)
        assert values["finetuning.rank"] in (8, 16)
    assert len({trial["finetuning.learning_rate"] for trial in _params(base)}) == 8  # none twice


def _params(base: Workspace) -> list[dict[str, Any]]:
    return [dict(trial.params) for trial in study(base).tried()]


def test_a_study_is_over_when_every_trial_has_an_answer(base: Workspace) -> None:
    begun = study(base)
    for end in ("value", "stopped", "failed", "cut short"):
        assert not begun.is_over
        trial, _ = begun.ask()
        if end == "value":
            begun.tell(trial, 1.5)
        elif end == "stopped":
            trial.report(9.0, 0)
            begun.tell_stopped(trial)
        elif end == "failed":
            begun.tell_failed(trial, "the loss is nan")
    assert not begun.is_over  # the last one was cut short

    again = study(base)
    assert again.take_back() == ["trial-3"]
    assert not again.is_over
    trial, values = again.ask()
    cut, retried = again.tried()[3], again.tried()[4]
    assert (cut.state, cut.reason) == ("fail", None)
    assert values == cut.params == retried.params
    again.tell(trial, 1.0)
    assert again.is_over
    assert again.best() == (values, 1.0)
    assert [trial.reason for trial in again.tried()].count("the loss is nan") == 1
    assert not study(base, trials=5).is_over  # more trials are the same study


def test_other_rows_models_params_or_another_space_are_another_study(base: Workspace) -> None:
    names = {study(base).name, study(base, seed=1).name}
    for changed in ("params/finetuning.yaml", "data/base", "data/raw/rows.jsonl"):
        (base.path / changed).write_text("rank: 4\n")
        names.add(study(base).name)
    assert len(names) == 5
    (base.path / "params" / "compute.yaml").write_text("threads: 1\n")
    assert study(base).name in names


def test_a_curve_worse_than_the_median_stops_a_trial(base: Workspace, tmp_path: Path) -> None:
    begun, scratch = study(base), tmp_path / "scratch"
    for losses in ([3.0, 2.0], [2.9, 1.9]):
        trial, _ = begun.ask()
        write_curve(scratch, losses)
        should_stop = begun.watch(trial, scratch)
        assert not should_stop("finetuning", shown(losses[0]))
        begun.tell(trial, losses[-1])
    trial, _ = begun.ask()
    should_stop = begun.watch(trial, scratch)
    write_curve(scratch, [4.0])
    assert not should_stop("distillation", shown(4.0))  # another stage's
    assert should_stop("finetuning", shown(4.0))


def test_the_greatest_value_is_the_best_where_the_goal_is_to_maximize(base: Workspace) -> None:
    begun = study(base, goal="maximize")
    values = {}
    for value in (0.2, 0.9, 0.4):
        trial, values[value] = begun.ask()
        begun.tell(trial, value)
    assert begun.best() == (values[0.9], 0.9)
    assert begun.name != study(base).name


def test_a_greater_loss_stops_a_trial_also_where_the_goal_is_to_maximize(
    base: Workspace, tmp_path: Path
) -> None:
    begun, scratch = study(base, goal="maximize"), tmp_path / "scratch"
    for losses, value in (([3.0, 2.0], 0.5), ([2.9, 1.9], 0.6)):
        trial, _ = begun.ask()
        write_curve(scratch, losses)
        assert not begun.watch(trial, scratch)("finetuning", shown(losses[0]))
        begun.tell(trial, value)
    trial, _ = begun.ask()
    write_curve(scratch, [4.0])
    assert begun.watch(trial, scratch)("finetuning", shown(4.0))
    trial, _ = begun.ask()
    write_curve(scratch, [1.0])
    assert not begun.watch(trial, scratch)("finetuning", shown(1.0))


def test_without_a_curve_no_trial_is_stopped(base: Workspace, tmp_path: Path) -> None:
    begun, scratch = study(base, curve=None), tmp_path / "scratch"
    for losses in ([3.0], [9.0]):
        trial, _ = begun.ask()
        write_curve(scratch, losses)
        assert not begun.watch(trial, scratch)("finetuning", shown(losses[0]))
        begun.tell(trial, losses[0])


def test_a_training_that_goes_on_is_compared_with_the_same_evaluation_of_others(
    base: Workspace, tmp_path: Path
) -> None:
    """Shown its second evaluation alone: the first one is in the file of before the kill."""
    begun, scratch = study(base), tmp_path / "scratch"
    trial, _ = begun.ask()
    write_curve(scratch, [3.0, 1.0])
    begun.watch(trial, scratch)("finetuning", shown(1.0))
    begun.tell(trial, 1.0)
    trial, _ = begun.ask()
    write_curve(scratch, [2.9, 2.5])  # better than the other's first, worse than its second
    assert begun.watch(trial, scratch)("finetuning", shown(2.5))


def test_a_study_without_any_value_says_why(base: Workspace) -> None:
    begun = study(base)
    for number in range(4):
        trial, _ = begun.ask()
        begun.tell_failed(trial, f"reason {number}")
    assert begun.is_over
    with pytest.raises(DataError, match="no trial of 4 gave a value; the last one: reason 3"):
        begun.best()


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ({"low": 4.0, "high": 2.0, "draw": "whole"}, "low must be below high"),
        ({"low": 0.5, "high": 2.0, "draw": "whole"}, "must be whole"),
        ({"low": 0.0, "high": 0.1, "draw": "log"}, "low must be above 0"),
        ({"choices": []}, "at least 1 item"),
    ],
)
def test_a_space_that_holds_nothing_is_refused(dimension: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SweepParams.model_validate(SETTINGS | {"space": {"finetuning.rank": dimension}})
