"""Alpaca's and ShareGPT's names are read as they are; a row without an id gets a stable one."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.ingestion.row_formats import document_line, record_line
from tasks.ingestion.row_ids import has_derived_id
from tasks.records.readers import Line, canonical_json, parse_line, read_lines


def _line(row: dict[str, Any]) -> Line:
    return parse_line(1, canonical_json(row))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    line = record_line(_line({"id": "a"} | row))
    assert line.fault is None
    assert line.row == json.loads(line.raw)
    return {name: value for name, value in (line.row or {}).items() if name != "id"}


def test_alpaca_becomes_question_and_answer() -> None:
    asked = {"instruction": "Add.", "input": "1 and 2", "output": "3", "slice": "sums"}
    assert _row(asked) == {"question": "Add.\n\n1 and 2", "answer": "3", "slice": "sums"}
    for nothing in ({"input": ""}, {"input": None}, {}):
        row = {"instruction": "Say hi.", "output": "Hi."} | nothing
        assert _row(row) == {"question": "Say hi.", "answer": "Hi."}


def test_the_one_instance_of_self_instruct_is_alpacas() -> None:
    row = {"instruction": "Add.", "instances": [{"input": "1 and 2", "output": "3"}]}
    assert _row(row) == {"question": "Add.\n\n1 and 2", "answer": "3"}


def test_sharegpt_becomes_messages() -> None:
    turns = [("system", "Be brief."), ("human", "Hi?"), ("gpt", "Hi."), ("user", "?"), ("gpt", "!")]
    row = {"conversations": [{"from": who, "value": said} for who, said in turns]}

    messages = _row(row)["messages"]

    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert [message["content"] for message in messages] == [said for _, said in turns]


@pytest.mark.parametrize("column", ["messages", "prompt", "history"])
def test_sharegpts_turns_are_read_in_every_column_that_holds_turns(column: str) -> None:
    turn, ours = {"from": "human", "value": "Q?"}, {"role": "user", "content": "Q?"}
    assert _row({column: [turn, ours], "n": 1}) == {column: [ours, ours], "n": 1}
    answer = {"from": "gpt", "value": "A.", "weight": 0}
    assert _row({"prompt": "Q?", "completion": answer})["completion"] == {
        "role": "assistant",
        "content": "A.",
        "weight": 0,
    }
    fault = record_line(_line({"prompt": [{"from": "tool", "value": "1"}]})).fault
    assert "a turn is from 'tool'" in str(fault)


@pytest.mark.parametrize("column", ["conversations", "messages"])
def test_a_completion_ends_a_conversation_without_an_answer(column: str) -> None:
    """A preference of LLaMA-Factory's, whose `chosen` is mapped to `completion`."""
    turns = {
        "conversations": ({"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}),
        "messages": ({"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}),
    }
    asked, answered = turns[column]

    row = _row({column: [asked], "completion": answered, "rejected": "B."})

    assert row == {
        "prompt": [turns["messages"][0]],
        "completion": turns["messages"][1],
        "rejected": "B.",
    }


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            {"instruction": "Add.", "input": "1, 2", "output": "3"},
            {"question": "Add.\n\n1, 2", "answer": "3"},
        ),
        (
            {"conversations": [{"from": "human", "value": "왜?"}, {"from": "gpt", "value": "음"}]},
            {
                "messages": [
                    {"role": "user", "content": "왜?"},
                    {"role": "assistant", "content": "음"},
                ]
            },
        ),
    ],
    ids=["alpaca", "sharegpt"],
)
def test_every_format_reads_them_alike(
    name: str, theirs: dict[str, Any], ours: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / name
    cells = {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
        for key, value in theirs.items()
    }
    if name == "a.jsonl":
        path.write_bytes(canonical_json(theirs))
    elif name == "a.csv":
        pd.DataFrame([cells]).to_csv(path, index=False)
    else:
        pd.DataFrame([theirs]).to_parquet(path)

    (line,) = map(record_line, read_lines(path))

    assert {key: (line.row or {})[key] for key in ours} == ours


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "answer": "b", "instruction": "c", "output": "d"}, "2 shapes at once"),
        ({"prompt": "a", "completion": "b", "messages": []}, "completion, messages, prompt"),
        ({"instruction": "a"}, "instruction without output"),
        ({"instruction": "a", "instances": [1, 2]}, "instruction without output"),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "write `chosen: output` under"),
        ({"instruction": ["a"], "output": "b"}, "instruction is list"),
        ({"instruction": "a", "output": 1}, "write `as_text: [output]` under `columns`"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "completion": "b"},
            "2 shapes at once",
        ),
        ({"conversations": "a"}, "conversations is a str"),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "a turn is from 'tool'"),
        ({"conversations": [{"role": "user", "content": "a"}]}, "conversations: messages"),
        ({"conversations": [3]}, "without the texts `from` and `value`"),
    ],
)
def test_a_row_that_is_no_one_shape_is_at_fault_with_a_reason(
    row: dict[str, Any], said: str
) -> None:
    line = record_line(_line(row))

    assert line.row is None
    assert said in str(line.fault)
    assert parse_line(1, line.raw).fault == line.fault


def test_columns_without_a_value_mix_nothing() -> None:
    row = {"question": "a", "answer": "b", "instruction": None, "messages": None}
    assert _row(row)["question"] == "a"


def test_a_row_without_an_id_gets_the_same_one_every_time() -> None:
    row = {"question": "몇 시?", "answer": "12시"}
    first = record_line(_line(row))
    again = record_line(_line({"answer": "12시", "id": None, "question": "몇 시?"}))
    other = record_line(_line(row | {"answer": "1시"}))

    assert first.row is not None
    assert first.raw == again.raw
    assert first.row["id"] == "row-" + first.row["id"][4:]
    assert first.row["id"] != (other.row or {})["id"]
    assert has_derived_id(first)
    assert not has_derived_id(_line(first.row | {"answer": "2시"}))
    assert not has_derived_id(record_line(_line(row | {"id": "mine"})))
    assert has_derived_id(document_line(_line({"text": "A text."})))


def test_whole_numbers_that_name_rows_become_text() -> None:
    line = record_line(_line({"id": 5, "question": "a", "answer": "b", "documents": [7, "x"]}))

    assert line.row is not None
    assert (line.row["id"], line.row["documents"]) == ("5", ["7", "x"])
    assert (record_line(_line({"id": True, "messages": []})).row or {})["id"] is True
