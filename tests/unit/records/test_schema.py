"""Rows of records: what most of them lack changes no byte of the others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.records.schema import Message, Record, read_records, record_line, write_records

TURNS = (Message("user", "Who?"), Message("assistant", "Ann."))
PLAIN = Record("r1", TURNS, ("d",), "all", "g", "s", "CC0", "n1")
FIELDS = ["id", "messages", "documents", "slice", "group", "source", "license", "intake"]


@pytest.mark.parametrize(
    ("record", "more"),
    [
        (PLAIN, []),
        (replace(PLAIN, is_feedback=True), ["is_feedback"]),
        (replace(PLAIN, unlearned=(1, 3)), ["unlearned"]),
        (replace(PLAIN, is_feedback=True, unlearned=(1,)), ["is_feedback", "unlearned"]),
    ],
)
def test_a_row_has_the_fields_that_say_something_and_comes_back(
    tmp_path: Path, record: Record, more: list[str]
) -> None:
    assert list(json.loads(record_line(record))) == FIELDS + more
    assert list(record.as_row()) == FIELDS + more
    write_records(tmp_path / "rows.jsonl", [record])
    assert read_records(tmp_path / "rows.jsonl") == [record]
    assert Record.from_row(json.loads(json.dumps(record.as_row()))) == record
