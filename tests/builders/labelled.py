"""The tiny models as classifiers: data with labels, and prompts that say so."""

import shutil
from dataclasses import replace
from pathlib import Path

from tasks.prompting.files import PROMPT
from tasks.records.schema import Message, Record, read_records, write_documents, write_records
from tasks.records.text import hash_share
from tasks.stage.outputs import write_manifest
from tasks.task_types.table import TrainedTask
from tests.unit.conftest import Tiny

SALT = "evaluation"  # by which params choose the records that are asked
LABELS = ("card", "card lost", "refund", "환불 요청")
WORDS = {"card": "plastic", "card lost": "stolen", "refund": "money", "환불 요청": "돈"}


def labelled(record: Record, number: int, label: str | None = None) -> Record:
    """A record whose answer is a label, and whose question holds a word of it."""
    answer = LABELS[number % len(LABELS)] if label is None else label
    question = f"{WORDS.get(answer, 'other')} of thing {number}, please"
    turns = (Message("user", question), Message("assistant", answer))
    return replace(record, messages=turns, documents=())


def write_labelled(folder: Path, source: Path, test_label: str | None = None) -> None:
    """Write a curated folder whose answers are labels; that of the test record which is asked first
    may be told.
    """
    shutil.copytree(source, folder)
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.jsonl"
        rows = [labelled(row, number) for number, row in enumerate(read_records(path))]
        if split == "test":
            first = min(range(len(rows)), key=lambda place: hash_share(rows[place].id, SALT))
            rows[first] = labelled(rows[first], first, test_label)
        write_records(path, rows)
    write_documents(folder / "documents.jsonl", [])
    write_manifest(folder)


def as_classifier(tiny: Tiny, root: Path, *, constrained: bool, test_label: str | None) -> Tiny:
    """A copy of the tiny models that were trained for LABELS, with data to match."""
    shutil.copytree(tiny.root, root, ignore=shutil.ignore_patterns("curated"))
    made = Tiny(root)
    write_labelled(made.curated, tiny.curated, test_label)
    task = TrainedTask("classify", LABELS, constrained)
    for folder in (made.adapter, made.student, made.control):
        task.write(folder / PROMPT)
        write_manifest(folder)
    write_manifest(made.students)
    return made
