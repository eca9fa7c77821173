"""What the systems are asked: records, modes and the passages that each prompt holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.records.hashing import hash_share
from tasks.records.passages import Passage
from tasks.records.predictions import DISTRACTOR
from tasks.records.record import Record
from tasks.records.text import normalise
from tasks.serving.retrieval import Index, ScoredPassage
from tasks.stage.errors import DataError


@dataclass(frozen=True)
class Question:
    """One record in one mode: the passages its prompt holds, best first, and the right answer."""

    record: Record
    mode: str
    passages: tuple[Passage, ...]
    reference: str


def choose_records(records: Sequence[Record], count: int, salt: str, *, split: str) -> list[Record]:
    """At most `count` records of a split, those whose hashed ids are lowest, in the hash's order.

    New records push out few of the old ones, so nights stay comparable.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError(
            f"the {split} split is empty; expected at least one record to score systems on",
            f"take in more data, or raise {split}_share in params/curation.yaml",
        )
    return sorted(records, key=lambda record: (hash_share(record.id, salt), record.id))[:count]


def pose(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    index: Index,
    *,
    passages: int,
    open_book: bool,
) -> list[Question]:
    """Every record in every mode that the data allow.

    `found` are the passages retrieved for each record. Unless the book is open there is closed_book
    alone. Oracle holds the first passages of the gold documents; a record that names none (an
    unanswerable one, say) gets the retrieved ones there. One whose gold documents are all gone from
    the index is left out of oracle: it would blame the model for what it was not shown.
    """
    questions = [Question(record, "closed_book", (), record.answer) for record in records]
    if not open_book:
        return questions
    by_document: dict[str, list[Passage]] = {}
    for passage in index.passages:
        by_document.setdefault(passage.document, []).append(passage)
    for record, ranked in zip(records, found, strict=True):
        retrieved = tuple(item.passage for item in ranked[:passages])
        gold = [part for name in record.documents for part in by_document.get(name, [])]
        questions.append(Question(record, "retrieved", retrieved, record.answer))
        if gold or not record.documents:
            oracle = tuple(gold[:passages]) or retrieved
            questions.append(Question(record, "oracle", oracle, record.answer))
    return questions


def pose_distractors(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    *,
    count: int,
    passages: int,
    abstention: str,
) -> list[Question]:
    """The first `count` records that can be asked with wrong passages alone; `abstention` is right.

    Wrong are those retrieved passages, best first, that are of no gold document and do not hold the
    answer word for word. Records without gold documents are left out: nothing tells what is wrong
    for them.
    """
    questions = []
    for record, ranked in zip(records, found, strict=True):
        wrong = [item.passage for item in ranked if _is_wrong(item.passage, record)]
        if record.documents and wrong:
            shown = tuple(wrong[:passages])
            questions.append(Question(record, DISTRACTOR, shown, abstention))
    return questions[:count]


def _is_wrong(passage: Passage, record: Record) -> bool:
    holds = normalise(record.answer) in normalise(passage.shown)
    return passage.document not in record.documents and not holds
