"""The turns of a raw row, whatever its shape, and what of the row nobody reads.

A column or key whose loss would teach something wrong is refused by name. To leave it out all the
same, `columns` in params gives it a name that nobody reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.records.messages import (
    NO,
    MisshapenError,
    Turn,
    conversation,
    is_empty,
    plain_messages,
    required_text,
    shown_value,
    truth,
)
from tasks.records.schema import Message
from tasks.records.tool_rows import plain_row

DOCUMENT_COLUMNS = ("id", "text", "title", "source", "license")

_SHAPES = (("prompt", "completion"), ("question", "answer"))
_ASKED = tuple(asked for asked, _ in _SHAPES)
_ASSISTANT = "assistant"
_SYSTEM = ("system", "system_prompt")
_LABELS = ("id", "documents", "slice", "group", "source", "license")
_REJECTED = "rejected_answer"
_READ = frozenset({*_LABELS, *_SYSTEM, "history", _REJECTED})
_PLAIN = {names[0]: frozenset({*_LABELS, *names}) for names in (*_SHAPES, ("messages",))}
_TOOLS = ("tools", "functions")
_SHOWN = 10
_LEAVE_OUT = (
    "to leave it out all the same, name it otherwise under `columns` in params/ingestion.yaml, "
    "e.g. `{0}: other_{0}`"
)


class UnlearnedError(Exception):
    """A row that says of itself that it is not to be learned from, and how it says so."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The conversation of a row, and the columns and message keys that nobody reads.

    `rejected` is an answer that is worse than the last one, empty where the row has none.
    """

    messages: tuple[Message, ...]
    unread: tuple[str, ...]
    rejected: str = ""


def read_turns(row: Mapping[str, Any], *, reads_tools: bool = False) -> Turns:
    """Return the turns of a raw row: messages, prompt and completion, or question and answer.

    The columns `system` and `history` come before them. Of the answers the last one is learned: the
    conversation ends with the last that is not marked as unlearned. Where it `reads_tools`, these,
    their calls and results become texts of the turns; otherwise a row that has any is refused.

    Raises:
        MisshapenError: a column is missing, of the wrong type, or would be learned wrongly.
        UnlearnedError: the row's answers are marked as not to be learned.
    """
    plain = _plain_turns(row)
    if plain is not None:
        return plain
    row = plain_row(row) if reads_tools else row
    _refuse_columns(row)
    names, turns = _shape(row)
    _check_label(row, names)
    turns = [*_system_column(row), *_with_history(row, turns)]
    whole = _one_system_turn(turns)
    turns = _learned_part(whole)
    messages = tuple(turn.message for turn in turns)
    rejected = _rejected(row, messages, is_cut=len(turns) < len(whole))
    used = _READ.union(names)
    columns = [
        name
        for name, value in row.items()
        if name not in used and not is_empty(value) and not _is_read_flag(name, value)
    ]
    keys = dict.fromkeys(name for turn in turns for name in turn.unread)
    return Turns(messages, (*columns, *keys), rejected)


def _rejected(row: Mapping[str, Any], messages: Sequence[Message], *, is_cut: bool) -> str:
    """Return the answer that a row says is worse than its own: a text, a message, or the last of a
    whole conversation. `is_cut`: the row's last answer is not the learned one.

    Raises:
        MisshapenError: it is none, the same as the row's own, or answers something else.
    """
    *before, last = _column(row, _REJECTED, _ASSISTANT)
    rejected = last.message.content.strip()
    if not rejected:
        return ""
    asked = [message for message in messages[:-1] if message.role != "system"]
    shown = [turn.message for turn in before if turn.message.role != "system"]
    found = None
    if last.message.role != _ASSISTANT:
        found = f"ends with a turn of {last.message.role}; expected the assistant's answer"
    elif is_cut or asked[len(asked) - len(shown) :] != shown:
        found = "answers other turns than the answer that is learned"
    elif rejected == messages[-1].content.strip():
        found = "is the answer itself: neither of two equal answers can be preferred"
    if found is not None:
        raise MisshapenError(f"{_REJECTED} {found}; {_LEAVE_OUT.format(_REJECTED)}")
    return rejected


def asked_turns(row: Mapping[str, Any]) -> tuple[Message, ...] | None:
    """Return what a raw row's answers answer: its turns that are not the assistant's.

    A row that is refused for its answer or for what stands beside the turns is read without these,
    so that it asks what it asks once it is mended; results of calls are asked, too. None where what
    it asks can't be read either.
    """
    for content, reads_tools in ((row, False), (_without_answers(row), False), (row, True)):
        try:
            turns = read_turns(content, reads_tools=reads_tools).messages
        except (MisshapenError, UnlearnedError):
            continue
        return tuple(turn for turn in turns if turn.role != _ASSISTANT)
    return None


def _without_answers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that hold what a row asks."""
    kept = {name: row[name] for name in (*_SYSTEM, "history", *_ASKED) if name in row}
    match row.get("messages"):
        case list(messages):
            kept["messages"] = [turn for turn in messages if not _is_answer(turn)]
    return kept


def _is_answer(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") == _ASSISTANT


def _plain_turns(row: Mapping[str, Any]) -> Turns | None:
    """Return the turns of a row of texts and nothing beside, as most are; None of another."""
    if row.keys() <= _PLAIN["messages"]:
        messages = plain_messages(row.get("messages"))
        return None if messages is None else Turns(messages, ())
    for asked, answered in _SHAPES:
        if row.keys() <= _PLAIN[asked]:
            question, answer = row.get(asked), row.get(answered)
            if isinstance(question, str) and isinstance(answer, str):
                return Turns((Message("user", question), Message("assistant", answer)), ())
    return None


def shown_counts(unread: Mapping[str, int]) -> str:
    """Return what nobody reads on one line, the most frequent first, with the rows that hold it."""
    ordered = sorted(unread.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} ({rows} rows)" for name, rows in ordered[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(ordered) - _SHOWN} more" * (len(ordered) > _SHOWN))


def _refuse_columns(row: Mapping[str, Any]) -> None:
    """Refuse the columns whose loss would teach something wrong.

    Raises:
        MisshapenError: one is there.
    """
    if not is_empty(row.get("chosen")):
        raise MisshapenError(chosen_is_no_answer(row))
    for name in _TOOLS:
        if not is_empty(row.get(name)):
            raise MisshapenError(
                f"{name} offers tools, which prompts of this task do not show: the answer would be "
                "learned without them. Train for them (`--set task.name=tools`), or leave such "
                f"rows out; {_LEAVE_OUT.format(name)}"
            )
    if row.get("weight") in NO:
        raise UnlearnedError("weight is 0")


def chosen_is_no_answer(row: Mapping[str, Any]) -> str:
    """Return why the column `chosen` is refused, and the mapping that reads it in this row."""
    pairs = (("question", "answer"), ("instruction", "output"))
    answer = next((answer for asked, answer in pairs if asked in row), "completion")
    return (
        "chosen is a column of preferences (DPO), of which nobody says that it is the answer: "
        f"write `chosen: {answer}` under `columns` in params/ingestion.yaml, or `chosen: messages` "
        "where it is a whole conversation and nothing else is; rejected is then left out, or, with "
        "`rejected: rejected_answer`, learned as the worse answer"
    )


def _check_label(row: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse an answer that is labelled as unwanted.

    Raises:
        UnlearnedError: the label is false.
        MisshapenError: it is 0 beside prompt and completion, which may mean false.
    """
    label = row.get("label")
    if truth(label) is False:
        raise UnlearnedError("label is false")
    if "completion" in names and label in NO:
        raise MisshapenError(
            "label is 0 beside a completion, which may say that it is unwanted (KTO) or be a class "
            f"of another kind: write true or false; {_LEAVE_OUT.format('label')}"
        )


def _is_read_flag(name: str, value: object) -> bool:
    return (name == "label" and truth(value) is not None) or (name == "weight" and value == 1)


def _shape(row: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Turn]]:
    """Return the columns that hold the conversation, and its turns."""
    if row.get("messages") is not None:
        return ("messages",), conversation(row["messages"], "messages")
    for asked, answered in _SHAPES:
        if row.get(asked) is not None or row.get(answered) is not None:
            prompt, answer = _column(row, asked, "user"), _column(row, answered, "assistant")
            if not answer[0].message.content and not is_empty(row.get("rejected")):
                raise MisshapenError(
                    f"rejected is there and {answered} is not: a preference (DPO) without the "
                    "answer that is wanted"
                )
            return (asked, answered), _joined(prompt, answer)
    raise MisshapenError(
        f"columns are {', '.join(sorted(row)) or 'none'}; expected question and answer, prompt and "
        "completion, or messages",
    )


def _joined(prompt: list[Turn], answer: list[Turn]) -> list[Turn]:
    """Return both; an answer that is the whole conversation begins with the prompt's turns."""
    asked, whole = (
        [turn for turn in turns if turn.message.role != "system"] for turns in (prompt, answer)
    )
    begins = [turn.message for turn in whole[: len(asked)]] == [turn.message for turn in asked]
    if not (begins and len(whole) > len(asked)):
        return [*prompt, *answer]
    system = [turn for turn in (*prompt, *answer) if turn.message.role == "system"]
    return [*system, *whole]


def _column(row: Mapping[str, Any], name: str, role: str) -> list[Turn]:
    """Return a column that holds one turn's text, or one or more messages."""
    value = row.get(name)
    if isinstance(value, dict) and "role" in value:
        value = [value]
    if isinstance(value, list) and value:
        return conversation(value, name)
    return [Turn(Message(role, required_text(row, name, "")), learned=True, unread=())]


def _system_column(row: Mapping[str, Any]) -> list[Turn]:
    texts = dict.fromkeys(required_text(row, name, "") for name in _SYSTEM)
    return [Turn(Message("system", text), learned=True, unread=()) for text in texts if text]


def _with_history(row: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    """Return the turns with those of `history` before the question, behind the system's.

    Raises:
        MisshapenError: it is neither a list of pairs of texts nor one of messages.
    """
    history = row.get("history")
    if is_empty(history):
        return turns
    if not isinstance(history, list):
        raise MisshapenError(
            f"history is {shown_value(history)}; expected a list of [question, answer] pairs or of "
            f"messages; {_LEAVE_OUT.format('history')}"
        )
    earlier: list[Turn] = []
    for item in history:
        match item:
            case [str(question), str(answer)]:
                pair = Message("user", question), Message("assistant", answer)
                earlier += [Turn(message, learned=True, unread=()) for message in pair]
            case {"role": _}:
                earlier += conversation([item], "history")
            case _:
                raise MisshapenError(
                    f"history holds {shown_value(item)}; expected a [question, answer] pair or a "
                    f"message; {_LEAVE_OUT.format('history')}"
                )
    begin = 0
    while begin < len(turns) and turns[begin].message.role == "system":
        begin += 1
    return [*turns[:begin], *earlier, *turns[begin:]]


def _one_system_turn(turns: list[Turn]) -> list[Turn]:
    """Return the turns with the system's at the beginning as one, each text of theirs once."""
    begin = 0
    while begin < len(turns) and turns[begin].message.role == "system":
        begin += 1
    if begin < 2:
        return turns
    texts = dict.fromkeys(turn.message.content for turn in turns[:begin])
    unread = tuple(name for turn in turns[:begin] for name in turn.unread)
    return [Turn(Message("system", "\n\n".join(texts)), True, unread), *turns[begin:]]


def _learned_part(turns: list[Turn]) -> list[Turn]:
    """Return the turns up to the last answer that is to be learned.

    Raises:
        UnlearnedError: none is.
    """
    if not turns or turns[-1].message.role != "assistant" or turns[-1].learned:
        return turns
    answers = [place for place, turn in enumerate(turns) if turn.message.role == "assistant"]
    learned = [place for place in answers if turns[place].learned]
    if not learned:
        raise UnlearnedError("every answer has weight 0")
    return turns[: learned[-1] + 1]
