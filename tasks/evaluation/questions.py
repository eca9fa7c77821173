"""What the systems are asked: records, modes and the passages that each prompt holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.records.hashing import hash_share
from tasks.records.passages import Passage
from tasks.records.record import Record
from tasks.serving.retrieval import Index, ScoredPassage
from tasks.stage.errors import DataError


@dataclass(frozen=True)
class Question:
    """One record in one mode, with the passages its prompt holds, best first."""

    record: Record
    mode: str
    passages: tuple[Passage, ...]


def choose_records(records: Sequence[Record], count: int, salt: str) -> list[Record]:
    """At most `count` records, those whose hashed ids are lowest, in the hash's order.

    New records push out few of the old ones, so nights stay comparable.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError(
            "the test split is empty; expected at least one record to score systems on",
            "take in more data, or raise the test share in params/curation.yaml",
        )
    return sorted(records, key=lambda record: (hash_share(record.id, salt), record.id))[:count]


def pose(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    index: Index,
    *,
    passages: int,
) -> list[Question]:
    """Every record in every mode that the data allow.

    `found` are the passages retrieved for each record. Without documents there is closed_book
    alone. Oracle holds the first passages of the gold documents; a record that has none (an
    unanswerable one, say) gets the retrieved ones there.
    """
    questions = [Question(record, "closed_book", ()) for record in records]
    if not index.passages:
        return questions
    by_document: dict[str, list[Passage]] = {}
    for passage in index.passages:
        by_document.setdefault(passage.document, []).append(passage)
    for record, ranked in zip(records, found, strict=True):
        retrieved = tuple(item.passage for item in ranked[:passages])
        gold = [part for name in record.documents for part in by_document.get(name, [])]
        questions.append(Question(record, "retrieved", retrieved))
        questions.append(Question(record, "oracle", tuple(gold[:passages]) or retrieved))
    return questions
