"""Why a child failed: what it left, else the error that it printed, else its last lines."""

from pathlib import Path

import pytest

from tasks.services.processes import (
    ChildResult,
    StageError,
    error_class,
    left_failure,
    printed_failure,
    stage_error,
)
from tasks.stage.errors import DataError, Failure, GateError

LINES = tuple(f"line {number}" for number in range(30))


def test_what_a_child_left_is_told_before_what_it_printed(tmp_path: Path) -> None:
    Failure("DataError", "a row is torn", "mend it").write(tmp_path)
    found = stage_error("curation", left_failure(tmp_path, ChildResult(1, LINES)))
    assert isinstance(found, DataError)
    assert (found.message, found.remedy) == ("curation: a row is torn", "mend it")


@pytest.mark.parametrize("left", ["", '{"error": "ConfigErr', None])
def test_a_child_whose_disk_was_too_full_to_leave_it_is_told_by_what_it_printed(
    tmp_path: Path, left: str | None
) -> None:
    if left is not None:
        (tmp_path / "failure.json").write_text(left)
    said = ("ConfigError: no space left on the disk", "  what to do: make room")
    found = left_failure(tmp_path, ChildResult(1, (*LINES, *said)))
    assert found.error == "ConfigError"
    assert found.message.strip() == "no space left on the disk"
    assert found.remedy == "make room"


def test_a_child_that_left_nothing_is_told_by_its_code_and_last_lines(tmp_path: Path) -> None:
    found = stage_error("curation", left_failure(tmp_path, ChildResult(-9, LINES)))
    assert isinstance(found, StageError)
    assert error_class(found) == "ProcessError"
    assert "exit code -9" in found.message
    assert "line 18\n" in found.message
    assert "line 17\n" not in found.message


def test_of_errors_that_were_printed_the_last_one_counts_and_keeps_its_class() -> None:
    first = str(DataError("a file is torn", "restore it"))
    last = str(GateError("it reads back as another model", "report it"))
    lines = [*LINES, *f"DataError: {first}\nGateError: {last}".splitlines()]
    found = stage_error("export", printed_failure(ChildResult(3, tuple(lines))))
    assert isinstance(found, GateError)
    assert found.message == "export: it reads back as another model"
    assert found.remedy == "report it"


@pytest.mark.parametrize("said", ["", "GateError: without what to do"])
def test_an_error_that_was_not_foreseen_is_told_by_its_last_lines(said: str) -> None:
    found = printed_failure(ChildResult(1, (*LINES, said)))
    assert found.error == "ProcessError"
    assert said in found.message
