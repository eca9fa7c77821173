"""What was withdrawn is not accepted, and every report that depends on it says so."""

import json
from pathlib import Path

import pytest

from tasks.curation.lineage import withdrawn_lineage
from tasks.records.schema import read_records, read_rows
from tasks.records.withdrawals import IntakeWithdrawal, RowWithdrawal, intakes_file, rows_file
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_atomically
from tasks.validation.__main__ import run
from tasks.validation.raw_rows import id_digests
from tests.unit.validation.test_validation import _ask, _intake, _params, _paths

pytestmark = pytest.mark.slow


def withdraw(root: Path, name: str, newest: str) -> None:
    found = IntakeWithdrawal(
        intake=name, reason="mapped wrongly", by="ann", when="2026-01-05T00:00:00+00:00",
        newest=newest,
    )  # fmt: skip
    write_atomically(intakes_file(root / "raw", name), found.model_dump_json())


def withdraw_row(root: Path, name: str, newest: str) -> None:
    [digest] = id_digests([name]).tolist()
    row = RowWithdrawal(
        kind="records", id=name, key=digest.hex(), reason="its source no longer has it", when="now"
    )
    write_atomically(rows_file(root / "raw", newest), row.model_dump_json() + "\n")


def accepted(root: Path) -> list[tuple[str, str]]:
    return [(row.id, row.answer) for row in read_records(root / "accepted/records.jsonl")]


def test_a_withdrawn_intake_and_row_are_not_accepted_and_the_lineage_says_so(
    tmp_path: Path,
) -> None:
    _intake(tmp_path, "1", [_ask("a"), _ask("b"), _ask("c")])
    _intake(tmp_path, "2", [_ask("b", answer="Wrong.")])
    _intake(tmp_path, "3", [_ask("d")])
    withdraw(tmp_path, "2", "3")
    withdraw_row(tmp_path, "c", "3")

    run(_params(tmp_path), _paths(tmp_path))

    assert accepted(tmp_path) == [("a", "A letter."), ("b", "A letter."), ("d", "A letter.")]
    metrics = read_metrics(tmp_path / "report")
    assert (metrics["intakes"], metrics["intakes_withdrawn"]) == (2, 1)
    assert (metrics["records"]["withdrawn"], metrics["records"]["superseded"]) == (1, 0)
    report = (tmp_path / "report/report.md").read_text()
    assert "Intake 2 was withdrawn on 2026-01-05 by ann: mapped wrongly" in report
    assert "1 records were withdrawn" in report
    lineage = {row["kind"]: row for row in withdrawn_lineage(tmp_path / "accepted")}
    assert lineage["withdrawn_intake"]["intake"] == "2"
    assert lineage["withdrawn_record"]["id"] == "c"
    assert lineage["withdrawn_record"]["reason"] == "its source no longer has it"


def test_where_nothing_was_withdrawn_nothing_is_written_of_it(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a")])
    run(_params(tmp_path), _paths(tmp_path))
    assert not (tmp_path / "accepted/withdrawn.jsonl").exists()
    metrics = read_metrics(tmp_path / "report")
    assert "intakes_withdrawn" not in metrics
    assert "withdrawn" not in metrics["records"]
    assert list(withdrawn_lineage(tmp_path / "accepted")) == []


def test_a_row_comes_back_with_a_later_intake(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a"), _ask("b")])
    withdraw_row(tmp_path, "b", "1")
    _intake(tmp_path, "2", [_ask("b", answer="Back.")])
    run(_params(tmp_path), _paths(tmp_path))
    assert accepted(tmp_path) == [("a", "A letter."), ("b", "Back.")]


def test_all_intakes_withdrawn_is_told(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a")])
    withdraw(tmp_path, "1", "1")
    with pytest.raises(DataError, match="no intake that was not withdrawn") as caught:
        run(_params(tmp_path), _paths(tmp_path))
    assert "`nightloom intakes` says why" in caught.value.remedy


@pytest.mark.parametrize("newest", ["3", "4"])
def test_a_set_that_held_a_withdrawn_intake_is_not_compared_with(
    tmp_path: Path, newest: str
) -> None:
    for name in "12":
        _intake(tmp_path, name, [_ask(f"{name}{n}") for n in range(4)])
    run(_params(tmp_path), _paths(tmp_path))
    profile = (tmp_path / "accepted/profile.json").read_text()
    _intake(tmp_path, "3", [_ask("new")], reference=profile)
    withdraw(tmp_path, "2", newest)
    # Five of eight rows are left, which without the reason would be a drop in volume.
    run(_params(tmp_path), _paths(tmp_path))
    metrics = read_metrics(tmp_path / "report")
    assert metrics["set"]["record_ratio"] is None
    reason = metrics["set_reasons"]["record_ratio"]
    assert "held intake 2, which was withdrawn since (mapped wrongly)" in reason


def test_an_intake_after_a_withdrawal_says_why_it_carries_no_reference(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a")])
    withdraw(tmp_path, "1", "1")
    _intake(tmp_path, "2", [_ask("b")])
    run(_params(tmp_path), _paths(tmp_path))
    reason = read_metrics(tmp_path / "report")["set_reasons"]["record_ratio"]
    assert "held intake 1, which was withdrawn" in reason


def test_advice_names_the_intake_that_brought_most_of_the_bad_rows(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [{"question": f"Q{n}?", "answer": "A letter."} for n in range(6)])
    _intake(tmp_path, "2", [*(_ask(f"r{n}") for n in range(8)), _ask("bad", answer="")])
    with pytest.raises(DataError) as caught:
        run(_params(tmp_path, max_quarantine_share=0.1), _paths(tmp_path))
    remedy = caught.value.remedy
    assert "6 of these 7 rows came with intake 1" in remedy
    assert "`nightloom intakes withdraw 1 --reason TEXT`" in remedy
    withdraw(tmp_path, "1", "2")
    run(_params(tmp_path, max_quarantine_share=0.2), _paths(tmp_path))  # the advice works
    assert len(accepted(tmp_path)) == 8


def test_a_torn_tombstone_is_a_data_error(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a")])
    write_atomically(intakes_file(tmp_path / "raw", "1"), json.dumps({"intake": "1"}))
    with pytest.raises(DataError, match="does not say what was withdrawn"):
        run(_params(tmp_path), _paths(tmp_path))
    assert list(read_rows(tmp_path / "raw/intakes/1/records.jsonl"))
