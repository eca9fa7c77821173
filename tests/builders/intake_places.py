"""Accepted rows made as a stream, as many as are asked for."""

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tasks.records.schema import Message, Record, write_documents, write_records
from tasks.stage.outputs import output_folders

SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4, 28)]


def made_records(count: int, *, seed: int = 0) -> Iterator[Record]:
    """Distinct records of about 200 characters, every fifth Korean; each tenth nearly repeats."""
    numbers = random.Random(seed)
    latin = ["".join(numbers.choices("abcdefghijklmnopqrstuvwxyz", k=numbers.randint(2, 9)))
             for _ in range(20_000)]  # fmt: skip
    hangul = ["".join(numbers.choices(SYLLABLES, k=numbers.randint(1, 4))) for _ in range(20_000)]
    earlier = ("", "")
    for number in range(count):
        words = hangul if number % 5 == 0 else latin
        question = " ".join(numbers.choices(words, k=10)) + "?"
        answer = " ".join(numbers.choices(words, k=22)) + "."
        if number % 10 == 9:
            question, answer = earlier[0] + "!", earlier[1]
        earlier = (question, answer)
        turns = (Message("user", question), Message("assistant", answer))
        name = f"r{number:08}"
        yield Record(name, turns, (), "all", name, "made", "CC0", "20260101T000000Z-0")


def make_accepted(folder: Path, count: int) -> Path:
    """A folder as validation leaves it, with so many records and no documents."""
    with output_folders(folder) as (accepted,):
        write_records(accepted / "records.jsonl", made_records(count))
        write_documents(accepted / "documents.jsonl", [])
        write_places(accepted, [f"r{number:08}" for number in range(count)])
    return folder


def write_places(accepted: Path, ids: list[str], intake: str = "20260101T000000Z-0") -> None:
    """Write the source line of each record, as validation does: line `n + 1` of one file."""
    count = len(ids)
    table = pyarrow.table(
        {
            "id": pyarrow.array(ids, pyarrow.string()),
            "intake": [intake] * count,
            "line": pyarrow.array(range(1, count + 1), pyarrow.int64()),
            "file": ["source.csv"] * count,
            "source_line": pyarrow.array(range(2, count + 2), pyarrow.int64()),
        }
    )
    parquet.write_table(table, accepted / "places.parquet")
