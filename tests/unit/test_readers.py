"""Rows of JSONL, CSV and Parquet files are read strictly."""

from pathlib import Path

import pandas as pd
import pytest

from tasks.records.readers import canonical_json, parse_line, read_lines
from tasks.stage.errors import DataError


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b'{"id": NaN}', "NaN is not a JSON number"),
        (b'{"id": "a", "id": "b"}', "key given twice: id"),
        (b'{"id": "\\ud800"}', "not valid Unicode"),
        (b'{"id": "\xff"}', "not valid Unicode"),
        (b'{"id": ', "not strict JSON"),
        (b"[1]", "found a list; expected a JSON object"),
        (b'{"id": 1e999}', "not strict JSON"),
        (b"[" * 100_000, "not strict JSON"),
    ],
)
def test_a_line_that_is_not_strict_json_says_why(raw: bytes, fault: str) -> None:
    line = parse_line(3, raw)

    assert line.row is None
    assert line.number == 3
    assert line.raw == raw
    assert fault in str(line.fault)


def test_the_same_row_reads_alike_from_jsonl_csv_and_parquet(tmp_path: Path) -> None:
    row = {"id": "1", "question": 'Où, "là"?', "answer": "日本\nici", "documents": ["a", "b"]}
    (tmp_path / "a.jsonl").write_bytes(canonical_json(row) + b"\r\n\n")
    pd.DataFrame([row]).to_parquet(tmp_path / "a.parquet")
    cells = row | {"documents": '["a", "b"]'}
    pd.DataFrame([cells]).to_csv(tmp_path / "a.csv", index=False)

    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert [line.row for line in read_lines(tmp_path / name)] == [row], name


def test_columns_are_renamed_from_theirs_to_ours(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,ask,documents\n1,Why?,doc\n", encoding="utf-8")

    (line,) = read_lines(tmp_path / "a.csv", {"key": "id", "ask": "question"})

    assert line.row == {"id": "1", "question": "Why?", "documents": ["doc"]}


def test_a_csv_row_with_too_many_cells_is_a_fault_and_not_a_guess(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,question\n1,Why?,more\n", encoding="utf-8")

    (line,) = read_lines(tmp_path / "a.csv")

    assert line.row is None
    assert "more cells" in str(line.fault)


@pytest.mark.parametrize("name", ["missing.jsonl", "rows.xlsx", "broken.parquet", "latin.csv"])
def test_a_file_that_cannot_be_read_is_a_data_error_with_a_remedy(
    tmp_path: Path, name: str
) -> None:
    if name != "missing.jsonl":
        (tmp_path / name).write_bytes(b"id,question\n1,\xe9\n")

    with pytest.raises(DataError) as error:
        list(read_lines(tmp_path / name))

    assert name in error.value.message
    assert error.value.remedy
