"""The tiny models as chat models: conversations of two or three turns, and data to match."""

import shutil
from dataclasses import replace
from pathlib import Path

from tasks.prompting.files import PROMPT
from tasks.records.schema import Message, Record, read_records, write_records
from tasks.stage.outputs import write_manifest
from tasks.task_types.chat import ChatSettings
from tasks.task_types.table import TrainedTask
from tests.unit.conftest import Tiny

CHAT = TrainedTask("chat", chat=ChatSettings("all", 600))


def conversation(record: Record, number: int) -> Record:
    """A record that goes on asking; every third one's second turn is not to be learned."""
    turns = (
        *record.messages,
        Message("user", "And when it is done?"),
        Message("assistant", f"Rest a while, {number}."),
    )
    if number % 3 == 0:
        return replace(record, messages=(*turns, *said("Is that all?", "Yes.")), unlearned=(2,))
    return replace(record, messages=turns)


def said(question: str, answer: str) -> tuple[Message, Message]:
    """A turn of the user and the assistant's after it."""
    return Message("user", question), Message("assistant", answer)


def write_conversations(folder: Path, source: Path) -> None:
    """Write a curated folder of conversations."""
    shutil.copytree(source, folder)
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.jsonl"
        rows = [conversation(row, number) for number, row in enumerate(read_records(path))]
        write_records(path, rows)
    write_manifest(folder)


def as_chat(tiny: Tiny, root: Path) -> Tiny:
    """A copy of the tiny models that were trained for conversations, with data to match."""
    shutil.copytree(tiny.root, root, ignore=shutil.ignore_patterns("curated"))
    made = Tiny(root)
    write_conversations(made.curated, tiny.curated)
    for folder in (made.adapter, made.student, made.control):
        CHAT.write(folder / PROMPT)
        write_manifest(folder)
    write_manifest(made.students)
    return made
