"""Contexts for training examples: passages as a search would bring them up, shared by questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.records.hashing import hash_share, text_sha256
from tasks.records.lexical import LexicalIndex
from tasks.records.passages import Passage
from tasks.records.record import Record
from tasks.tokenization.params import TokenizationParams

_NEAR = 4  # how many of the best matches may trade places


@dataclass(frozen=True)
class Context:
    """What a prompt shows above its question, by the name under which examples share it."""

    name: str
    passages: tuple[str, ...]


class _Waiting:
    """The records that have no context yet, by the document whose first passage serves them."""

    def __init__(
        self, records: Sequence[Record], served_by: Callable[[Record], str | None]
    ) -> None:
        self._document = {record.id: served_by(record) for record in records}
        self._records: dict[str | None, list[Record]] = {}
        for record in records:
            self._records.setdefault(self._document[record.id], []).append(record)

    def __contains__(self, record: Record) -> bool:
        return record.id in self._document

    def remove(self, record: Record) -> None:
        """Let a record wait no longer."""
        self._records[self._document.pop(record.id)].remove(record)

    def served(self, passages: Sequence[Passage]) -> list[Record]:
        """The waiting records that these passages serve, in the order they came."""
        return [
            record
            for passage in passages
            if passage.is_first
            for record in self._records.get(passage.document, [])
        ]


def choose_contexts(
    records: Sequence[Record],
    passages: Sequence[Passage],
    *,
    count: int,
    params: TokenizationParams,
) -> dict[str, Context]:
    """A context for each record, by the record's id.

    A share of the records, decided by hashed id, sees no passages. Of the others one comes first by
    hash and decides: the best lexical matches of its question, best first, with the gold document's
    first passage brought in where the search missed it. Where another document is next best, the
    few best trade places so that one comes which serves waiting records. These then share the
    passages: records whose gold passage is shown, and records without one whose best match is. So
    a question that has an answer and one that has none are asked of the same passages.
    """
    chosen = {record.id: Context(record.id, ()) for record in records}
    open_book = [
        record
        for record in sorted(records, key=lambda item: text_sha256(str(params.seed), item.id))
        if passages and hash_share(record.id, f"passages-{params.seed}") < params.passages_share
    ]
    if not open_book:
        return chosen
    first = {passage.document: passage for passage in passages if passage.is_first}
    matches = _matches(open_book, passages, count)

    def served_by(record: Record) -> str | None:
        gold = [name for name in record.documents[:1] if name in first]
        return next(iter(gold or [match.document for match in matches[record.id]]), None)

    waiting = _Waiting(open_book, served_by)
    for record in sorted(open_book, key=lambda item: bool(item.documents)):
        if record not in waiting:
            continue
        waiting.remove(record)
        gold = next((first[name] for name in record.documents if name in first), None)
        shown = _choose(matches[record.id], gold, count, waiting)
        context = Context(record.id, tuple(passage.shown for passage in shown))
        chosen[record.id] = context
        for other in waiting.served(shown)[: params.context_examples - 1]:
            chosen[other.id] = context
            waiting.remove(other)
    return chosen


def _matches(
    records: Sequence[Record], passages: Sequence[Passage], count: int
) -> dict[str, list[Passage]]:
    """For each record's id, the best lexical matches of its question, best first."""
    index = LexicalIndex.build([passage.shown for passage in passages])
    depth = min(_NEAR + count, len(passages))
    found, _ = index.search([record.question for record in records], depth)
    return {
        record.id: [passages[place] for place in row]
        for record, row in zip(records, found, strict=True)
    }


def _choose(
    matches: Sequence[Passage], gold: Passage | None, count: int, waiting: _Waiting
) -> list[Passage]:
    """The `count` passages to show, as the matches rank them; a gold one they lack comes last."""
    others = [match for match in matches if match != gold]
    if gold is None or (others[:1] and others[0].document != gold.document):
        others[:_NEAR] = sorted(others[:_NEAR], key=lambda match: not waiting.served([match]))
    chosen = others[:count] if gold is None else [*others[: count - 1], gold]
    return sorted(chosen, key=lambda item: matches.index(item) if item in matches else len(matches))
