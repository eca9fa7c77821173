"""A step of curation that takes too much refuses the night, with how it is let through."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.curation.__main__ import run
from tasks.curation.params import Params
from tasks.curation.preparation import SPLITS, split_of
from tasks.records.record import Record
from tasks.stage.errors import GateError
from tasks.stage.metrics import read_metrics
from tests.unit.test_curation import PARAMS, changed, many, record, sentence
from tests.unit.test_curation_stage import accepted_rows


def short() -> list[Record]:
    """Seventy rows, and thirty whose questions are no question."""
    return [*many(70), *(record(f"s{n:02}", "?", sentence(n)) for n in range(30))]


def copied() -> list[Record]:
    """A hundred and fifty rows, and a hundred copies of some of them."""
    rows = many(150)
    copies = (record(f"z{n:02}", rows[n].question, rows[n].answer) for n in range(100))
    return [*rows, *copies]


def known() -> list[Record]:
    """Forty rows of the test split, of which thirty questions are asked in training too."""
    test = [row for row in many(1200) if SPLITS[split_of(row.group, PARAMS)] == "test"][:40]
    train = [row for row in many(1200) if SPLITS[split_of(row.group, PARAMS)] == "train"][:60]
    asking = (
        record(train[n].id, test[n].question, sentence(9000 + n, 12)) for n in range(30)
    )  # fmt: skip
    return [*test, *train[30:], *asking, many(1200)[first("validation")]]


def first(split: str) -> int:
    return next(n for n in range(1200) if SPLITS[split_of(f"r{n:04}", PARAMS)] == split)


def with_bound(step: str, bound: float) -> Params:
    return changed(max_removed_share=PARAMS.max_removed_share.model_dump() | {step: bound})


@pytest.mark.parametrize(
    ("rows", "step", "said"),
    [
        (short, "quality", r"  s00 \(too_short\) '\?' -> "),
        (
            copied,
            "duplicates",
            r"  z\d\d \(exact_duplicate\) 'What is .*\n    is 1\.00 like r00\d\d 'What is ",
        ),
        (known, "leaks", r"  r\d+ \(asks_test_question\) .*\n    is 1\.00 like r\d+ "),
    ],
)
def test_a_step_above_its_bound_refuses_with_examples_and_the_setting_that_lets_it_through(
    tmp_path: Path, rows: Callable[[], list[Record]], step: str, said: str
) -> None:
    records = rows()
    paths = accepted_rows(tmp_path, records)
    with pytest.raises(GateError) as refused:
        run(changed(), paths)
    assert re.search(said, refused.value.message)
    examples = [line for line in refused.value.message.splitlines() if line.startswith("  ")]
    assert len([line for line in examples if not line.startswith("    is ")]) == 3
    assert f"the step {step}" in refused.value.message
    assert not paths.curated.exists()
    report = paths.scratch / "report.md"
    assert str(report) in refused.value.remedy
    count = int(refused.value.message.split(" of ")[0])
    assert report.read_text().count("  - `") == count

    setting = f"--set curation.max_removed_share.{step}="
    bound = float(refused.value.remedy.split(setting)[1].split("`")[0])
    run(with_bound(step, bound), paths)
    steps = read_metrics(paths.curation_report)["steps"]
    assert steps[step]["taken"] == count
    assert not report.exists()


def test_the_report_says_how_many_rows_came_to_each_step_and_were_left(tmp_path: Path) -> None:
    records = [*many(70), *short()[70:75], *copied()[150:160]]
    paths = accepted_rows(tmp_path, records)
    run(changed(), paths)
    assert read_metrics(paths.curation_report)["steps"] == {
        "quality": {"rows": 85, "taken": 5, "left": 80},
        "duplicates": {"rows": 80, "taken": 10, "left": 70},
        "leaks": {"rows": 70, "taken": 0, "left": 70},
    }
    text = (paths.curation_report / "report.md").read_text()
    assert "| duplicates | 80 | 10 | 70 |" in text
