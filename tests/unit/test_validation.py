"""Bad rows leave with a reason; a bad set stops the night."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.records.files import read_documents, read_records
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.params import load_params
from tasks.validation.__main__ import Paths, run
from tasks.validation.params import Params
from tasks.validation.rows import MisshapenError, parse_record
from tasks.validation.rules import BrokenRuleError, Rule, breaches

FILE = Path("params/validation.yaml")


def _params(**changes: Any) -> Params:
    params = load_params(Params, [FILE])
    values = params.validation.model_dump() | {"min_records": 1, "max_quarantine_share": 0.9}
    return Params.model_validate({"validation": values | changes})


def _paths(root: Path) -> Paths:
    (root / "scratch").mkdir(exist_ok=True)
    return Paths(root / "raw", root / "accepted", root / "report", root / "scratch")


def _intake(root: Path, name: str, records: Sequence[Any], documents: Sequence[Any] = ()) -> None:
    with output_folders(root / "raw" / "intakes" / name) as (folder,):
        for file, rows in (("records", records), ("documents", documents)):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            text = "".join(f"{line}\n" for line in lines)
            (folder / f"{file}.jsonl").write_text(text, encoding="utf-8")


def _ask(identifier: str, **more: Any) -> dict[str, Any]:
    return {"id": identifier, "question": f"What is {identifier}?", "answer": "A letter."} | more


def _quarantine(root: Path) -> dict[Any, list[str]]:
    lines = (root / "scratch" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return {(row["id"], row["line"]): row["rules"] for row in map(json.loads, lines)}


def test_every_kind_of_bad_row_goes_to_quarantine_with_its_rule(tmp_path: Path) -> None:
    user, assistant = ({"role": role, "content": "Some text."} for role in ("user", "assistant"))
    records = [
        _ask("good", documents=["d"]),
        _ask("twice"),
        _ask("twice"),
        {"id": "no answer", "question": "What is it?"},
        _ask("blank", answer="  "),
        _ask("echo", question="The same.", answer="The same."),
        _ask("dangling", documents=["d", "nowhere"]),
        {"id": "roles", "messages": [assistant, user]},
        {"id": "shapeless", "text": "?"},
        _ask("typed", answer=3),
        '{"id": NaN}',
        _ask("good too", documents=["d"]),
        {"question": "Who am I?", "answer": "Nobody."},
    ]
    _intake(tmp_path, "1", records, [{"id": "d", "text": "A document."}, {"id": "e", "text": ""}])

    run(_params(), _paths(tmp_path))

    assert [row.id for row in read_records(tmp_path / "accepted/records.jsonl")] == [
        "good",
        "good too",
    ]
    assert [row.id for row in read_documents(tmp_path / "accepted/documents.jsonl")] == ["d"]
    found = _quarantine(tmp_path)
    assert found == {
        ("twice", 2): ["id_is_unique"],
        ("twice", 3): ["id_is_unique"],
        ("no answer", 4): ["answer_length"],
        ("blank", 5): ["answer_length"],
        ("echo", 6): ["answer_differs_from_question"],
        ("dangling", 7): ["gold_documents_exist"],
        ("roles", 8): ["roles_take_turns", "answer_differs_from_question"],
        ("shapeless", 9): ["has_a_shape"],
        ("typed", 10): ["field_types"],
        (None, 11): ["is_strict_json"],
        (None, 13): ["id_is_text"],
        ("e", 2): ["document_length"],
    }
    assert read_metrics(tmp_path / "report")["records"]["quarantined"] == 11
    assert (tmp_path / "report/data_docs/records/index.html").exists()


def test_a_later_intake_replaces_rows_and_keeps_the_others(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a"), _ask("b")], [{"id": "d", "text": "An old document."}])
    _intake(tmp_path, "2", [_ask("b", answer="New.", documents=["d"])])

    run(_params(), _paths(tmp_path))

    records = read_records(verified(tmp_path / "accepted") / "records.jsonl")
    assert [(row.id, row.answer, row.intake) for row in records] == [
        ("a", "A letter.", "1"),
        ("b", "New.", "2"),
    ]
    assert read_metrics(tmp_path / "report")["records"]["superseded"] == 1


def test_too_many_bad_rows_stop_the_night_and_leave_the_last_good_set(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a"), _ask("b")])
    run(_params(), _paths(tmp_path))
    before = (tmp_path / "accepted/records.jsonl").read_bytes()
    _intake(tmp_path, "2", [_ask("c", answer=""), _ask("d", answer="")])

    with pytest.raises(DataError) as error:
        run(_params(max_quarantine_share=0.1), _paths(tmp_path))

    assert "2 of 4 records" in error.value.message
    assert "2/records.jsonl:1 (id 'c')" in error.value.message
    assert ("c", 1) in _quarantine(tmp_path)
    assert (tmp_path / "accepted/records.jsonl").read_bytes() == before


@pytest.mark.parametrize("answer", ["", "A letter."])
def test_a_set_without_enough_good_rows_is_a_data_error(tmp_path: Path, answer: str) -> None:
    _intake(tmp_path, "1", [_ask("a", answer=answer)])

    with pytest.raises(DataError):
        run(_params(min_records=2, max_quarantine_share=1.0), _paths(tmp_path))

    assert not (tmp_path / "accepted").exists()


def test_no_intake_at_all_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()

    with pytest.raises(DataError, match="no intake"):
        run(_params(), _paths(tmp_path))


def test_a_rule_that_cannot_run_is_no_verdict_on_the_data(tmp_path: Path) -> None:
    rule = Rule("odd", "ExpectColumnValuesToBeUnique", "no_such_column", {})

    with pytest.raises(BrokenRuleError, match="no_such_column"):
        breaches("records", pd.DataFrame({"row": [0], "id": ["a"]}), [rule], tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q?", "answer": "A."},
        {"prompt": "Q?", "completion": "A."},
        {
            "prompt": [{"role": "user", "content": "Q?"}],
            "completion": [{"role": "assistant", "content": "A."}],
        },
        {
            "messages": [
                {"role": "user", "content": "Q?"},
                {"role": "assistant", "content": "A."},
            ]
        },
    ],
)
def test_every_shape_of_a_row_is_the_same_record(row: dict[str, Any]) -> None:
    record = parse_record({"id": "a", "documents": ["d"]} | row, "1")

    assert (record.question, record.answer, record.group) == ("Q?", "A.", "d")


def test_a_group_is_given_or_the_first_document_or_the_id() -> None:
    assert parse_record(_ask("a", documents=["d"], group="g"), "1").group == "g"
    assert parse_record(_ask("a", documents=["d"]), "1").group == "d"
    assert parse_record(_ask("a"), "1").group == "a"


def test_a_misshapen_row_says_what_was_found() -> None:
    with pytest.raises(MisshapenError, match="documents is str 'd'; expected a list of texts"):
        parse_record(_ask("a", documents="d"), "1")


def test_bounds_the_wrong_way_round_are_a_config_error(tmp_path: Path) -> None:
    text = FILE.read_text(encoding="utf-8").replace("[3, 4000]", "[30, 4]")
    (tmp_path / "validation.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match="above the longest"):
        load_params(Params, [tmp_path / "validation.yaml"])
