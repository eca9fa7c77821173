"""Predictions: they come back as they were, and a file of another kind is refused by name."""

from dataclasses import fields, replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tasks.records.predictions import (
    BATCH_TIMES,
    Prediction,
    read_predictions,
    write_predictions,
)
from tasks.stage.errors import DataError

ROW = Prediction(
    system="base", mode="retrieved", record="r", slice="s", question="q", reference="서울은",
    output="서울", prompt_sha256="0", retrieved=("p#0",), exact_match=0.0, token_f1=0.8,
    rouge_l=0.8, chrf=0.5, length_ratio=2 / 3, groundedness=1.0, unsupported=2, attribution=0.5,
    citation=1.0, new_tokens=3, is_cut=True,
)  # fmt: skip
BARE = replace(
    ROW, retrieved=(), length_ratio=None, groundedness=None, attribution=None, citation=None,
    output="\ufffd", is_cut=False,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.parquet"


def test_predictions_come_back_from_their_file(path: Path) -> None:
    write_predictions(path, [ROW, BARE])
    assert read_predictions(path) == [ROW, BARE]


WORDS = {"exact_match": None, "token_f1": None, "chrf": None}
LABEL = replace(ROW, rouge_l=None, accuracy=1.0, probability=0.5, **WORDS)
SUMMARY = replace(
    ROW, rouge_1=0.5, rouge_2=0.25, compression=0.1, supported_terms=None, supported_sentences=None,
    numbers_and_names=3, **WORDS,
)  # fmt: skip

CALL = replace(
    ROW, rouge_l=None, turn_score=0.0, call_match=0.0, name_match=1.0, words_f1=None, calls=2,
    broken_calls=1, unoffered_calls=0, **WORDS,
)  # fmt: skip


def test_the_files_of_all_tasks_have_a_column_for_every_field(path: Path) -> None:
    found: dict[str, set[str]] = {}
    turn = replace(ROW, turn=2)
    rows = {"answer": ROW, "label": LABEL, "summary": SUMMARY, "turn": turn, "call": CALL}
    for name, row in rows.items():
        write_predictions(path, [row])
        assert read_predictions(path) == [row]
        found[name] = set(parquet.read_schema(path).names)
    assert set.union(*found.values()) == {field.name for field in fields(Prediction)}
    own = {name: columns - found["answer"] for name, columns in found.items()}
    assert own["label"] == {"accuracy", "probability"}
    assert own["turn"] == {"turn"}
    assert own["summary"] == {"rouge_1", "rouge_2", "compression", "supported_terms",
                              "supported_sentences", "numbers_and_names"}  # fmt: skip
    assert own["call"] == {"turn_score", "call_match", "name_match", "words_f1", "calls",
                           "broken_calls", "unoffered_calls"}  # fmt: skip


def test_a_file_of_summaries_that_lacks_a_score_of_theirs_is_refused_by_name(path: Path) -> None:
    write_predictions(path, [SUMMARY])
    parquet.write_table(parquet.read_table(path).drop_columns(["compression"]), path)
    with pytest.raises(DataError, match="no compression"):
        read_predictions(path)


def test_a_file_of_an_older_version_is_refused_by_what_it_lacks(path: Path) -> None:
    write_predictions(path, [ROW])
    table = parquet.read_table(path).drop_columns(["groundedness", "is_cut"])
    parquet.write_table(table.append_column("extra", pyarrow.array([1])), path)
    with pytest.raises(DataError, match="no groundedness, no is_cut, extra is unknown"):
        read_predictions(path)


def test_the_times_of_a_file_of_before_are_read_over(path: Path) -> None:
    write_predictions(path, [ROW])
    table = parquet.read_table(path)
    for name in BATCH_TIMES:
        table = table.append_column(name, pyarrow.array([2.5]))
    parquet.write_table(table, path)
    assert read_predictions(path) == [ROW]


def test_a_column_of_another_type_is_refused(path: Path) -> None:
    write_predictions(path, [ROW])
    table = parquet.read_table(path)
    at = table.schema.get_field_index("chrf")
    parquet.write_table(table.set_column(at, "chrf", pyarrow.array(["0.5"])), path)
    with pytest.raises(DataError, match="chrf is string, not double"):
        read_predictions(path)


def test_a_torn_file_is_refused(path: Path) -> None:
    write_predictions(path, [ROW])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="no whole Parquet file"):
        read_predictions(path)


def test_half_a_surrogate_pair_is_refused_with_the_record_that_holds_it(path: Path) -> None:
    with pytest.raises(DataError, match=r"output of record 'r', system 'base'.* character 1"):
        write_predictions(path, [ROW, replace(ROW, output="서\ud83d")])
    assert not path.exists()


def test_a_score_that_a_row_lacks_is_an_error_and_no_number() -> None:
    assert ROW.score("groundedness") == 1.0
    with pytest.raises(DataError, match="has no groundedness"):
        BARE.score("groundedness")
