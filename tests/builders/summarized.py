"""The tiny models as summarizers: texts with numbers and names, and their summaries."""

import shutil
from dataclasses import replace
from pathlib import Path

from tasks.prompting.files import PROMPT
from tasks.records.schema import Message, Record, read_records, write_documents, write_records
from tasks.stage.outputs import write_manifest
from tasks.task_types.table import TrainedTask
from tests.unit.conftest import Tiny


def summarized(record: Record, number: int) -> Record:
    """A record that asks for the summary of a text."""
    text = (
        f"The office of Acme said that sales number {number} rose by {number}% in May. "
        "It was a quiet month, and nothing else is known of it."
    )
    turns = (Message("user", text), Message("assistant", f"Sales {number} of Acme rose."))
    return replace(record, messages=turns, documents=())


def write_summarized(folder: Path, source: Path) -> None:
    """Write a curated folder of texts and summaries."""
    shutil.copytree(source, folder)
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.jsonl"
        rows = [summarized(row, number) for number, row in enumerate(read_records(path))]
        write_records(path, rows)
    write_documents(folder / "documents.jsonl", [])
    write_manifest(folder)


def as_summarizer(tiny: Tiny, root: Path) -> Tiny:
    """A copy of the tiny models that were trained to summarize, with data to match."""
    shutil.copytree(tiny.root, root, ignore=shutil.ignore_patterns("curated"))
    made = Tiny(root)
    write_summarized(made.curated, tiny.curated)
    for folder in (made.adapter, made.student, made.control):
        TrainedTask("summarize").write(folder / PROMPT)
        write_manifest(folder)
    write_manifest(made.students)
    return made
