"""Passages for training examples: the gold one among those that a search would bring up with it."""

from collections.abc import Sequence

from tasks.records.hashing import hash_share
from tasks.records.lexical import LexicalIndex
from tasks.records.passages import Passage
from tasks.records.record import Record

_SEARCHED = 12  # how deep to look for passages of other documents


def choose_passages(
    records: Sequence[Record], passages: Sequence[Passage], *, count: int, seed: int
) -> list[list[str]]:
    """For each record, the passages its prompt shows, as text.

    A record with gold documents gets its first gold passage, at a place that its hash decides,
    among the best lexical matches from other documents; one without gets the best matches alone.
    """
    if not passages:
        return [[] for _ in records]
    index = LexicalIndex.build([passage.shown for passage in passages])
    depth = min(_SEARCHED + count, len(passages))
    found, _ = index.search([record.question for record in records], depth)
    first = {passage.document: passage for passage in reversed(passages)}
    return [
        _arrange(record, [passages[place] for place in row], first, count, seed)
        for record, row in zip(records, found, strict=True)
    ]


def _arrange(
    record: Record,
    found: Sequence[Passage],
    first: dict[str, Passage],
    count: int,
    seed: int,
) -> list[str]:
    gold = next((first[name] for name in record.documents if name in first), None)
    others = [passage for passage in found if passage.document not in record.documents]
    if gold is None:
        return [passage.shown for passage in others[:count]]
    shown = others[: count - 1]
    place = int(hash_share(record.id, f"place-{seed}") * (len(shown) + 1))
    return [passage.shown for passage in [*shown[:place], gold, *shown[place:]]]
