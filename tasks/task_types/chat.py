"""Task chat: every assistant turn of a conversation is learned, asked and scored.

A turn is asked with the reference turns before it, in training and evaluation alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.records.schema import Message, Record
from tasks.records.text import normalise
from tasks.stage.errors import DataError
from tasks.task_types.answer import ANSWER
from tasks.task_types.definition import TaskType

Learn = Literal["all", "last"]

CHAT = TaskType(
    name="chat",
    prompt="chat",
    says="a reply",
    # A mean over conversations of the means over their turns: comparisons are paired by both.
    metric="token_f1",
    metrics=ANSWER.metrics,
    shown=("token_f1", "chrf"),
    unasked={
        "shadow": "good replies to one turn are seldom alike: that they differ says nothing",
    },
)

_ASSISTANT = "assistant"
_NAMED = 5


@dataclass(frozen=True)
class ChatSettings:
    """What task chat is told: which turns are learned, and by how much of a conversation passages
    are searched.
    """

    learn: Learn
    query_characters: int


def turn_number(record: Record) -> int:
    """Return which of the assistant's turns ends a conversation, from 1."""
    return sum(message.role == _ASSISTANT for message in record.messages)


def learned_turns(record: Record, learn: Learn) -> list[Record]:
    """Return a conversation up to each of the assistant's turns that is learned, the last one last.

    Those of weight 0 are not. What the row rejects is worse than its last answer alone. Of feedback
    the last alone is learned: what a model once said before it is nothing to learn.
    """
    if learn == "last" or record.is_feedback:
        return [record]
    ends = [at for at, message in enumerate(record.messages) if message.role == _ASSISTANT]
    before = [
        replace(record, messages=record.messages[: end + 1], rejected="")
        for number, end in enumerate(ends[:-1], start=1)
        if number not in record.unlearned
    ]
    return [*before, record]


def first_exchange(record: Record) -> Record:
    """Return a conversation up to its first learned turn, which mostly needs nothing before it."""
    return learned_turns(record, "all")[0]


def conversation_query(turns: Sequence[Message], characters: int) -> str:
    """Return what passages are searched by: the last turn, then those before it, the latest first.

    At most so many characters, but the last turn always whole: an embedder that reads less cuts the
    oldest. The system's turn is no part of it, nor are turns that came before.
    """
    *earlier, asked = turns
    found, room = [asked.content], characters - len(asked.content)
    seen = {normalise(asked.content)}
    for turn in reversed(earlier):
        text = " ".join(turn.content.split())
        if turn.role == "system" or normalise(text) in seen:
            continue
        seen.add(normalise(text))
        room -= len(text) + 1
        if room < 0:
            cut = text[:room]
            words = cut.rpartition(" ")[0] or cut
            return "\n".join([*found, words]) if words else "\n".join(found)
        found.append(text)
    return "\n".join(found)


def check_conversations(
    splits: Mapping[str, Sequence[Record]], learn: Learn, most_turns: int
) -> None:
    """Check that conversations have turns that can be learned and asked, and not too many.

    Raises:
        DataError: one has an empty turn, or more than `most_turns` turns of the assistant.
    """
    rows = [(record, split) for split, records in splits.items() for record in records]
    long = [(record, split) for record, split in rows if turn_number(record) > most_turns]
    if long:
        longest = max(turn_number(record) for record, _ in long)
        raise DataError(
            f"{len(long)} conversations have more than task.chat.max_turns ({most_turns}) turns of "
            f"the assistant: {_listed(long)}; the longest has {longest}, and each would be learned "
            "and asked with all turns before it",
            f"`--set task.chat.max_turns={longest}`, or split such conversations in the source",
        )
    empty = [
        (record, split)
        for record, split in rows
        if any(not normalise(turn.content) for turn in _exchanged(record, learn))
    ]
    if empty:
        raise DataError(
            f"{len(empty)} conversations have an empty turn: {_listed(empty)}; expected text in "
            "each, or a model learns to say nothing",
            "leave such rows out of the source, or give an empty turn of the assistant weight 0 "
            "where the turns after it do not need it",
        )


def _exchanged(record: Record, learn: Learn) -> list[Message]:
    """Return the turns that a conversation's learned turns are, or answer."""
    return [turn for one in learned_turns(record, learn) for turn in one.messages[-2:]]


def _listed(rows: Sequence[tuple[Record, str]]) -> str:
    shown = ", ".join(f"{record.id} ({split})" for record, split in rows[:_NAMED])
    return shown + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
