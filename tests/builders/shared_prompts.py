"""Sets of rows by rule, in five languages, and the prompts under which people put such rows."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.records.schema import Message, Record

FILE = Path("tests/builders/shared_prompts.yaml")
_LABELS = 4


@dataclass(frozen=True)
class Phrases:
    """What the rows of a language are made of, as the file tells."""

    words: list[str]
    labels: list[str]
    short: str
    long: str
    slot: str
    join: str


LANGUAGES = {
    name: Phrases(**values | {"words": values["words"].split()})
    for name, values in yaml.safe_load(FILE.read_text(encoding="utf-8")).items()
}

Prompted = Callable[[Phrases, str], tuple[list[Message], str]]
# How a prompt stands with a question: the turns before it, and the question as it is asked.
PROMPTS: dict[str, Prompted] = {
    "short system": lambda language, asked: ([Message("system", language.short)], asked),
    "long system": lambda language, asked: ([Message("system", language.long * 4)], asked),
    "instruction before": lambda language, asked: ([], f"{language.long}\n\n{asked}"),
    "instruction behind": lambda language, asked: ([], f"{asked}\n\n{language.long}"),
    "template": lambda language, asked: ([], language.slot.format(question=asked)),
    "all of them": lambda language, asked: (
        [Message("system", language.long)],
        f"{language.short}\n{language.slot.format(question=asked)}",
    ),
}  # fmt: skip


def made_rows(
    language: Phrases, count: int, *, labels: bool, prompt: Prompted | None = None
) -> list[Record]:
    """Return rows that are drawn from the words, the same ones under any prompt.

    One in twenty nearly repeats another row. `labels`: the answers are a few labels.
    """
    chance = random.Random(count)
    rows: list[Record] = []
    asked: list[str] = []
    for number in range(count):
        drawn = [chance.choice(language.words) for _ in range(chance.randint(6, 16))]
        answer = language.join.join(
            chance.choice(language.words) for _ in range(chance.randint(3, 9))
        )
        if labels:
            answer = language.labels[chance.randrange(_LABELS)]
        asked.append(language.join.join(drawn) + "?")
        if number % 20 == 19:
            copied = rows[number - 7]
            answer, asked[-1] = copied.answer, asked[number - 7].replace("?", "?!")
        before, question = ([], asked[-1]) if prompt is None else prompt(language, asked[-1])
        turns = (*before, Message("user", question), Message("assistant", answer))
        name = f"r{number:05}"
        rows.append(Record(name, turns, (), "all", name, "", "", "1"))
    return rows
