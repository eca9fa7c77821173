"""What a stage writes is whole or not there, and is checked before it is read."""

import json
from pathlib import Path

import pytest

from tasks.stage.errors import DataError, Failure
from tasks.stage.metrics import Curves, read_curve, write_metrics
from tasks.stage.outputs import output_folders, verified


def test_a_failed_block_leaves_the_last_good_folder_and_nothing_else(tmp_path: Path) -> None:
    with output_folders(tmp_path / "out") as (folder,):
        (folder / "a.txt").write_text("good")
    with pytest.raises(TypeError), output_folders(tmp_path / "out") as (folder,):
        (folder / "a.txt").write_text(b"half")  # type: ignore[arg-type]
    assert (verified(tmp_path / "out") / "a.txt").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("damage", ["change", "add", "remove", "manifest"])
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: str) -> None:
    with output_folders(tmp_path / "out") as (folder,):
        (folder / "a.txt").write_text("good")
    victim = tmp_path / "out" / {"add": "b.txt", "manifest": "manifest.json"}.get(damage, "a.txt")
    if damage in ("remove", "manifest"):
        victim.unlink()
    else:
        victim.write_text("other")
    with pytest.raises(DataError, match=r"manifest\.json"):
        verified(tmp_path / "out")


@pytest.mark.parametrize("text", ["{broken", "[]", "{}", '{"files": 1}'])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"has a manifest\.json that can't be read"):
        verified(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_an_error(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError, match=r"deep\.loss"):
        write_metrics(tmp_path, {"deep": {"loss": value}})
    with pytest.raises(DataError, match="step 3"):
        Curves(tmp_path).append(3, "loss", value, "nats")


def test_a_resume_truncates_curves_to_its_step(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    for step in (1, 2, 3):
        curves.append(step, "loss", 1.0 / step, "nats")
    with (tmp_path / "curves.jsonl").open("a") as stream:
        stream.write('{"step": 4, "na')  # as a kill tears it
    Curves(tmp_path, resume_step=2).append(3, "loss", 0.25, "nats")
    rows = [json.loads(row) for row in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [(row["step"], row["value"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_a_resume_of_the_first_training_keeps_the_points_of_those_after_it(tmp_path: Path) -> None:
    Curves(tmp_path).append(2, "loss", 1.0, "nats")
    Curves(tmp_path, series="after").append(9, "loss", 0.5, "nats")
    Curves(tmp_path, resume_step=2)
    assert read_curve(tmp_path, "loss", series="after") == [(9, 0.5)]
    Curves(tmp_path)
    assert read_curve(tmp_path, "loss", series="after") == []


def test_a_failure_is_read_as_it_was_written(tmp_path: Path) -> None:
    failure = Failure.of(DataError("found x, expected y", "mend y"))
    failure.write(tmp_path)
    assert (
        Failure.read(tmp_path) == failure == Failure("DataError", "found x, expected y", "mend y")
    )
