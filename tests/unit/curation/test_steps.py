"""A step that takes more of its rows than its bound refuses the night, and says what to do."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tasks.curation import __main__ as curation
from tasks.curation.__main__ import Paths, run
from tasks.curation.params import Params
from tasks.records.schema import Record
from tasks.services.processes import ChildResult, left_failure, stage_error
from tasks.stage.command import run_stage
from tasks.stage.errors import DataError, GateError
from tasks.stage.metrics import read_metrics
from tests.unit.curation.test_curation import PARAMS, changed, many, named, record, sentence
from tests.unit.curation.test_stage import accepted_rows


def spoiled_by_quality() -> list[Record]:
    rows = many(150)
    return [
        *rows[:100],
        *(record(f"s{n}", f"{row.question} x", "") for n, row in enumerate(rows[100:])),
    ]


def spoiled_by_copies() -> list[Record]:
    return [
        *many(100),
        *(record(f"s{n}", many(6)[5].question, sentence(5005, 5)) for n in range(120)),
    ]


def spoiled_by_leaks() -> list[Record]:
    tests = [record(named("test", f"t{n}-"), f"What is {sentence(n)}?", "It.") for n in range(60)]
    asked = [record(named("train", f"s{n}-"), row.question, f"No, {sentence(n, 9)}.")
             for n, row in enumerate(tests)]  # fmt: skip
    return [*many(100)[60:], *tests, *asked]


SPOILED: dict[str, tuple[Callable[[], Sequence[Record]], str]] = {
    "quality": (
        spoiled_by_quality,
        r"50 of 150 rows would be left out \(33\.3%\); expected at most 20",
    ),
    "duplicates": (
        spoiled_by_copies,
        r"120 of 220 rows would be left out \(54\.5%\); expected at most 30",
    ),
    "leaks": (
        spoiled_by_leaks,
        r"6\d of 160 rows would be left out \(3\d\.\d%\); expected at most 20",
    ),
}


def setting_told(remedy: str) -> dict[str, float]:
    """The `--set` of a remedy, as the section of params that it changes."""
    found = re.search(r"`--set curation\.max_removed_share\.(\w+)=([\d.]+)`", remedy)
    assert found is not None, remedy
    return {found[1]: float(found[2])}


@pytest.mark.parametrize("step", SPOILED)
def test_a_step_above_its_bound_refuses_the_night_and_its_setting_lets_it_through(
    step: str, tmp_path: Path
) -> None:
    rows, said = SPOILED[step]
    paths = accepted_rows(tmp_path, rows())

    with pytest.raises(GateError, match=f"^{step}: {said}") as caught:
        run(changed(), paths)

    examples = [line for line in caught.value.message.splitlines() if re.match(r"  \S", line)]
    assert len(examples) == 3
    assert all(re.search(r"\((\w+)\)", line) for line in examples)
    assert not paths.curated.exists()
    report = (paths.scratch / "report.md").read_text(encoding="utf-8")
    assert f"| {step} |" in report
    assert str(paths.scratch / "report.md") in caught.value.remedy

    bounds = PARAMS.max_removed_share.model_dump() | setting_told(caught.value.remedy)
    run(changed(max_removed_share=bounds), paths)

    assert (paths.curated / "train.jsonl").exists()
    assert not (paths.scratch / "report.md").exists()


@pytest.mark.parametrize("step", SPOILED)
def test_a_step_at_its_bound_passes_and_just_above_it_does_not(step: str, tmp_path: Path) -> None:
    paths = accepted_rows(tmp_path, SPOILED[step][0]())
    every = dict.fromkeys(PARAMS.max_removed_share.model_dump(), 1.0)
    run(changed(max_removed_share=every), paths)
    found = read_metrics(paths.curation_report)["steps"][step]
    share = found["taken"] / found["rows"]

    run(changed(max_removed_share=every | {step: share}), paths)
    with pytest.raises(GateError, match=f"^{step}: "):
        run(changed(max_removed_share=every | {step: share - 1e-6}), paths)


def test_a_duplicate_is_shown_with_the_row_that_stays(tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        run(changed(), accepted_rows(tmp_path, spoiled_by_copies()))

    assert re.search(
        r"s0 \(exact_duplicate\) 'What is .*\n    is 1\.00 like r0005 'What is",
        caught.value.message,
    )


def test_a_row_that_goes_for_its_personal_data_is_named_and_never_shown(tmp_path: Path) -> None:
    rows = [
        record(f"r{n}", f"Who is {sentence(n)}?", f"Ask jane{n}.doe@example.com.")
        for n in range(90)
    ]
    drop = PARAMS.personal_data.model_dump() | {"email": "drop"}
    paths = accepted_rows(tmp_path, rows)

    with pytest.raises(GateError, match=r"^quality: 90 of 90 .*\n.*holds_email: 90") as caught:
        run(changed(personal_data=drop), paths)

    assert "personal_data.email=mask" in caught.value.remedy
    for text in (str(caught.value), (paths.scratch / "report.md").read_text(encoding="utf-8")):
        assert "jane" not in text


def test_every_param_that_a_refusal_names_exists() -> None:
    from tasks.curation.steps import _mending

    content = yaml.safe_load(Path("params/curation.yaml").read_text(encoding="utf-8"))
    rules = [*(("quality", rule) for rule in content["quality"]), ("quality", "holds_card"),
             ("duplicates", "near_duplicate"), ("leaks", "like_test")]  # fmt: skip
    for step, rule in rules:
        (name,) = re.findall(r"curation\.([\w.]+)", _mending(step, rule))
        section = content
        for part in name.split("."):
            section = section[part]


def test_rows_in_and_rows_left_are_told_at_every_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        *many(120),
        record("zz", "What is " + sentence(3) + "?", sentence(5003, 5)),
        record("y", "Why?", ""),
    ]
    paths = accepted_rows(tmp_path, rows)
    caplog.set_level("INFO")

    run(changed(), paths)

    steps = read_metrics(paths.curation_report)["steps"]
    assert steps == {
        "quality": {"rows": 122, "taken": 1, "left": 121},
        "duplicates": {"rows": 121, "taken": 1, "left": 120},
        "leaks": {"rows": 120, "taken": 0, "left": 120},
    }
    report = (paths.curation_report / "report.md").read_text(encoding="utf-8")
    for name, found in steps.items():
        assert f"| {name} | {found['rows']} | {found['taken']} | {found['left']} |" in report
        assert f"{name}: {found['rows']} rows in, {found['taken']} taken" in caplog.text


def test_a_refusal_comes_to_the_night_as_one(tmp_path: Path) -> None:
    paths = accepted_rows(tmp_path, spoiled_by_copies())
    options = [
        "--params", "params/curation.yaml", "--accepted", str(paths.accepted),
        "--curated", str(paths.curated), "--curation_report", str(paths.curation_report),
        "--scratch", str(tmp_path / "scratch"),
    ]  # fmt: skip

    assert run_stage("curation", Params, Paths, curation.run, options) == 1

    error = stage_error("curation", left_failure(tmp_path / "scratch/curation", ChildResult(1, ())))
    assert isinstance(error, GateError)
    assert error.message.startswith("curation: duplicates: 120 of 220 rows")
    assert setting_told(error.remedy) == {"duplicates": 0.55}
    assert (
        json.loads((tmp_path / "scratch/curation/failure.json").read_text())["error"] == "GateError"
    )


def test_an_empty_split_names_shares_that_exist(tmp_path: Path) -> None:
    rows = [record(named("test", f"t{n}-"), f"What is {sentence(n)}?", "It.") for n in range(9)]
    with pytest.raises(DataError, match="the train split is empty") as caught:
        run(changed(), accepted_rows(tmp_path, rows))

    named_there = re.findall(r"curation\.(\w+)", caught.value.remedy)
    assert set(named_there) == {"test_share", "validation_share"}


def about_one(count: int) -> list[Record]:
    return [replace(row, group="handbook", documents=("handbook",)) for row in many(count)]


@pytest.mark.parametrize("count", [70, 84, 400])
def test_rows_about_one_document_are_told_of_groups_and_groups_mend_it(
    count: int, tmp_path: Path
) -> None:
    rows = about_one(count)
    with pytest.raises(DataError, match="1 group, the largest 'handbook' with") as caught:
        run(changed(), accepted_rows(tmp_path, rows))

    assert "write a `group` into each row" in caught.value.remedy
    assert "columns: {records: {section: group}}" in caught.value.remedy
    assert "curation." not in caught.value.remedy  # no share could help

    own = accepted_rows(tmp_path, [replace(row, group=row.id) for row in rows])
    run(changed(**shares_told(own)), own)
    assert all(read_metrics(tmp_path / "report")["splits"].values())


def shares_told(paths: Paths) -> dict[str, float]:
    """The shares that a run asks for, none where it needs no other ones."""
    try:
        run(changed(), paths)
    except DataError as error:
        found = re.findall(r"--set curation\.(\w+)=([\d.]+)", error.remedy)
        return {name: float(value) for name, value in found}
    return {}


@pytest.mark.parametrize("count", [10, 30, 60])
def test_too_few_rows_are_told_shares_that_leave_no_split_empty(count: int, tmp_path: Path) -> None:
    for start in range(0, 600, 60):
        rows = [replace(row, group=f"g{start}-{row.id}") for row in many(count)]
        paths = accepted_rows(tmp_path, rows)
        run(changed(**shares_told(paths)), paths)
        assert all(read_metrics(paths.curation_report)["splits"].values())


def test_rows_that_no_share_can_part_ask_for_more(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 of 2 records stay, in 2 groups") as caught:
        run(changed(), accepted_rows(tmp_path, many(2)))

    assert caught.value.remedy == "take more rows in, about more documents"
