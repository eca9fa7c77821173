"""Task chat in tokenization: an example a turn, asked as it will be, after the turns before it.

The examples of a conversation begin alike, answers of earlier turns included, so a pack computes
what they share once. What is learned of each is its own answer, found as that of any prompt is: the
chat template renders each turn as the last one, whatever it makes of it later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from tasks.lexical.chunking import Passage
from tasks.prompting.chat_encoding import reshaped_answers
from tasks.records.schema import SPLITS, Record
from tasks.records.text import hash_share, normalise, text_sha256
from tasks.stage.errors import DataError
from tasks.task_types.chat import turn_number
from tasks.task_types.table import TrainedTask
from tasks.tokenization.limits import Words
from tasks.tokenization.params import TokenizationParams
from tasks.tokenization.training_examples import Context, best_matches, choose_passages

_NAMED = 5
WORDS = Words(
    "turns with the conversation before them", "replies", "A turn with its conversation", "a reply"
)


def split_turns(
    task: TrainedTask, splits: Mapping[str, Sequence[Record]]
) -> dict[str, list[Record]]:
    """Return splits of task chat turn by turn, each under an id of its own; others as they are."""
    if task.chat is None:
        return {name: list(records) for name, records in splits.items()}
    return {
        name: [replace(turn, id=f"{turn.id}#{turn_number(turn)}") for turn in task.asked(records)]
        for name, records in splits.items()
    }


def check_shown(splits: Mapping[str, Sequence[Record]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template shows each of the assistant's turns whole once others follow it.

    Raises:
        DataError: it takes a part of one away, such as a thought.
    """
    rows = [
        (f"{record.id} ({split})", turn.content)
        for split, records in splits.items()
        for record in records
        for turn in record.messages
        if turn.role == "assistant"
    ]
    found = dict.fromkeys(rows[at][0] for at in reshaped_answers(tokenizer, [t for _, t in rows]))
    if found:
        names = list(found)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise DataError(
            f"{len(names)} conversations hold a turn of the assistant that spells a token of the "
            f"base's chat template, by which it takes a part away once others follow: "
            f"{', '.join(names[:_NAMED])}{more}; such parts, thoughts for the most part, would be "
            "learned and shown as text that the base has never seen",
            "leave thoughts out of the turns in the source, or take a base whose chat template "
            "shows turns as they are",
        )


def choose_turn_contexts(
    turns: Sequence[Record],
    passages: Sequence[Passage],
    task: TrainedTask,
    *,
    count: int,
    params: TokenizationParams,
) -> dict[str, Context]:
    """Return a context for each turn, by its id.

    A share of the conversations, decided by hashed id, sees no passages. Of the others each turn
    sees the best lexical matches of its conversation, with the first passage of a gold document,
    which may hold what any of the turns says. A conversation's turns share a context, at most
    `context_examples` of them.
    """
    by_conversation: dict[str, list[Record]] = {}
    for turn in turns:
        by_conversation.setdefault(turn.id.rpartition("#")[0], []).append(turn)
    salt = f"passages-{params.seed}"
    open_book = [
        turn
        for name, own in by_conversation.items()
        if passages and hash_share(name, salt) < params.passages_share
        for turn in own
    ]
    queries = [task.query(turn.messages[:-1]) for turn in open_book]
    matches = best_matches([turn.id for turn in open_book], queries, passages, count)
    first = {passage.document: passage for passage in passages if passage.is_first}
    chosen = {}
    for name, own in by_conversation.items():
        for place, turn in enumerate(own):
            part = place // params.context_examples
            shown: Sequence[Passage] = ()
            if turn.id in matches:
                gold = next((first[one] for one in turn.documents if one in first), None)
                shown = choose_passages(matches[turn.id], gold, count)
            texts = tuple(passage.shown for passage in shown)
            chosen[turn.id] = Context(f"{name} part {part + 1}" if part else name, texts)
    return chosen


def turn_counts(turns: Mapping[str, Sequence[Record]]) -> dict[str, object]:
    """Return how many conversations and turns there are by split, and how many have weight 0.

    `in_train` are the turns of another split that are learned word for word, with all before them:
    curation compares whole conversations, and many begin alike.
    """
    found: dict[str, object] = {}
    learned = {_wording(turn) for turn in turns["train"]}
    for split, records in turns.items():
        known = split != "train" and sum(_wording(turn) in learned for turn in records)
        last = {record.id.rpartition("#")[0]: record for record in records}
        found[split] = {
            "conversations": len(last),
            "turns": len(records),
            "unlearned": sum(len(record.unlearned) for record in last.values()),
            "most_turns": max(map(turn_number, records), default=0),
            "in_train": int(known),
        }
    return found


def _wording(turn: Record) -> str:
    """Return a hash of all that is said up to a turn, the turn included."""
    texts = (normalise(one.content) for one in turn.messages if one.role != "system")
    return text_sha256(*texts)


def turns_line(found: Mapping[str, object]) -> str:
    """Return it in a sentence."""
    told = []
    for split in SPLITS:
        row = found[split]
        assert isinstance(row, dict)
        told.append(
            f"{row['turns']} in {row['conversations']} conversations of {split} (at most turn "
            f"{row['most_turns']} of one, {row['unlearned']} more of weight 0)"
        )
    text = f"Turns that are learned or asked: {', '.join(told)}."
    known = {split: row["in_train"] for split in SPLITS if isinstance(row := found[split], dict)}
    if known["validation"] or known["test"]:
        text += (
            f" {known['validation']} of validation and {known['test']} of test are in train word "
            "for word, with all before them: give conversations that begin alike one `group`, or "
            "their scores are those of what was learned."
        )
    return text
