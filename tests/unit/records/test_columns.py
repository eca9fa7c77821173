"""Columns under our names; whole numbers, class labels and what `as_text` names become texts."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tasks.records.columns import NO_COLUMNS, Columns, identifier_text
from tasks.records.readers import read_lines

LABELS = ["schlecht", "gut", "보통"]


def _parquet(path: Path, columns: dict[str, list[Any]], **features: Any) -> None:
    table = pyarrow.table(columns)
    said = {"info": {"features": features}}
    path.write_bytes(b"")
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(said)} if features else {}), path
    )


@pytest.mark.parametrize("name", ["label", "sentiment", "분류"])
def test_a_whole_number_is_text_where_its_column_is_mapped(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": 1, name: 2, "score": 3}), encoding="utf-8")

    (mapped,) = read_lines(path, Columns({name: "answer"}))
    (plain,) = read_lines(path)

    assert mapped.row == {"id": 1, "answer": "2", "score": 3}
    assert plain.row == {"id": 1, name: 2, "score": 3}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_column_is_known_in_either_unicode_form(form: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(unicodedata.normalize(form, "질문,Réponse\n왜?,Oui.\n"), encoding="utf-8")

    (line,) = read_lines(path, Columns({"질문": "question", "Réponse": "answer"}))

    assert (line.row or {}).keys() == {"question", "answer"}
    assert line.mapped == ("질문", "Réponse")


def test_class_labels_that_datasets_wrote_are_read_by_their_names(tmp_path: Path) -> None:
    import datasets

    label = datasets.ClassLabel(names=LABELS)
    made = datasets.Dataset.from_dict({"q": ["a"], "y": [2]})
    made.cast_column("y", label).to_parquet(tmp_path / "a.parquet")

    (line,) = read_lines(tmp_path / "a.parquet", Columns({"q": "question", "y": "answer"}))

    assert line.row == {"question": "a", "answer": "보통"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "true"), (False, "false"), (0.5, "0.5"), (4.0, "4.0"), ([1], [1])],
)
def test_params_say_which_columns_are_read_as_text(value: Any, text: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"answer": value, "theirs": value}), encoding="utf-8")

    (line,) = read_lines(path, Columns({"theirs": "slice"}, frozenset({"answer", "slice"})))

    assert line.row == {"answer": text, "slice": text}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (7.0, "7"),
        (-3.0, "-3"),
        (7.5, 7.5),
        (True, True),
        ("7.0", "7.0"),
        (2.0**60, 2.0**60),
        (None, None),
    ],
)
def test_a_whole_number_of_any_type_is_an_id(value: Any, text: Any) -> None:
    assert identifier_text(value) == text
    assert type(identifier_text(value)) is type(text)


def test_class_labels_of_a_parquet_file_are_read_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    feature = {"names": LABELS, "_type": "ClassLabel"}
    columns = {"text": ["a", "b", "c", "d"], "label": [0, 2, -1, 9], "other": [0, 1, 2, 0]}
    _parquet(path, columns, label=feature, other=feature, text={"_type": "Value"})

    rows = [line.row for line in read_lines(path, Columns({"text": "question", "label": "answer"}))]

    assert [row and row.get("answer") for row in rows] == ["schlecht", "보통", None, "9"]
    assert [row and row["other"] for row in rows] == [0, 1, 2, 0]


def test_a_parquet_file_without_the_metadata_of_datasets_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for features in ({}, {"label": {"_type": "Sequence", "feature": {}}}, {"label": [1]}):
        _parquet(path, {"label": [1]}, **features)
        assert [line.row for line in read_lines(path, NO_COLUMNS)] == [{"label": 1}]
