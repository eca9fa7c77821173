"""The requests: records, the mode and passages of each prompt, and the answer that is right."""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from tasks.embedding.embedder import Embedder
from tasks.evaluation.retrieval_metrics import DEPTHS
from tasks.lexical.chunking import Passage
from tasks.records.predictions import DISTRACTOR, FEEDBACK, INJECTED
from tasks.records.schema import Record, read_rows
from tasks.records.text import normalise
from tasks.retrieval.index import Index, ScoredPassage
from tasks.scoring.identity import records_sha256
from tasks.stage.errors import DataError
from tasks.task_types.table import Query

INJECTIONS_FILE = Path(__file__).with_name("general") / "injections.jsonl"


@dataclass(frozen=True)
class Request:
    """One record in one mode: the passages its prompt holds, best first, and the right answer.

    A conversation has a request a turn, each with the reference turns before it as its record.
    """

    record: Record
    mode: str
    passages: tuple[Passage, ...]
    reference: str


def choose_records(
    records: Sequence[Record], count: int, share: Callable[[str], float], *, split: str
) -> list[Record]:
    """Return at most `count` records of a split: those with the lowest hashed ids, in that order.

    `share` is `hash_share`, bound to its salt. New records push out few of the
    old ones, so nights stay comparable.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError(
            f"the {split} split is empty; expected at least one record to score systems on",
            f"take in more data, raise curation.{split}_share, or give records about one document "
            "a `group` each",
        )
    return heapq.nsmallest(count, records, key=lambda record: (share(record.id), record.id))


def make_plain_requests(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    index: Index,
    *,
    passages: int,
    open_book: bool,
) -> list[Request]:
    """Return every record in every mode of MODES that the data allow.

    `found` are the passages retrieved for each record. Unless the book is open there is closed_book
    alone. Oracle holds the first passages of the gold documents; a record that names none (an
    unanswerable one, say) gets the retrieved ones there. One whose gold documents are all gone from
    the index is left out of oracle: it would blame the model for what it was not shown.
    """
    requests = [Request(record, "closed_book", (), record.answer) for record in records]
    if not open_book:
        return requests
    by_document: dict[str, list[Passage]] = {}
    for passage in index.passages:
        by_document.setdefault(passage.document_id, []).append(passage)
    for record, ranked in zip(records, found, strict=True):
        retrieved = tuple(item.passage for item in ranked[:passages])
        gold = [part for name in record.documents for part in by_document.get(name, [])]
        requests.append(Request(record, "retrieved", retrieved, record.answer))
        if gold or not record.documents:
            oracle = tuple(gold[:passages]) or retrieved
            requests.append(Request(record, "oracle", oracle, record.answer))
    return requests


def make_distractor_requests(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    *,
    count: int,
    passages: int,
    abstention: str,
) -> list[Request]:
    """Return the first `count` records that wrong passages alone can be shown to.

    `abstention` is the right answer. Wrong are those retrieved passages, best first, that are of no
    gold document and do not hold the answer word for word. Records without gold documents are left
    out: nothing tells what is wrong for them.
    """
    requests = []
    for record, ranked in zip(records, found, strict=True):
        wrong = [item.passage for item in ranked if _is_wrong(item.passage, record)]
        if record.documents and wrong:
            shown = tuple(wrong[:passages])
            requests.append(Request(record, DISTRACTOR, shown, abstention))
    return requests[:count]


def _is_wrong(passage: Passage, record: Record) -> bool:
    holds = normalise(record.answer) in normalise(passage.shown)
    return passage.document_id not in record.documents and not holds


@dataclass(frozen=True)
class Injection:
    """A text that orders the model to say a word that no answer holds, its canary."""

    id: str
    language: str
    text: str
    canary: str

    @property
    def passage(self) -> Passage:
        """Return the text as retrieval would bring it up."""
        document = f"injection/{self.id}"
        return Passage(f"{document}#0", document, "", self.text)


def read_injections() -> list[Injection]:
    """Read the texts that lie beside this module."""
    return [Injection(**row) for row in read_rows(INJECTIONS_FILE)]


def make_injected_requests(
    requests: Sequence[Request], injections: Sequence[Injection], count: int
) -> list[Request]:
    """Return the requests of the first `count` records in mode retrieved, an injection among their
    passages.

    None of the passages leaves for it; texts and places are taken in turn.
    """
    retrieved = [item for item in requests if item.mode == "retrieved"]
    asked = set(list(dict.fromkeys(item.record.id for item in retrieved))[:count])
    retrieved = [item for item in retrieved if item.record.id in asked]
    made = []
    for number, item in enumerate(retrieved):
        passages = list(item.passages)
        injection = injections[number % len(injections)]
        place = number // len(injections) % (len(passages) + 1)
        passages.insert(place, injection.passage)
        made.append(Request(item.record, INJECTED, tuple(passages), item.reference))
    return made


def make_feedback_requests(
    records: Sequence[Record], found: Sequence[Sequence[ScoredPassage]], *, passages: int
) -> list[Request]:
    """Return held-out feedback as it would be served: with the passages that were found, if any."""
    return [
        Request(record, FEEDBACK, tuple(item.passage for item in ranked[:passages]), record.answer)
        for record, ranked in zip(records, found, strict=True)
    ]


@dataclass(frozen=True)
class Retriever:
    """An index, how its embedder and reranker are loaded, and how many passages a prompt shows.

    `query` returns what it is searched by for a conversation.
    """

    index: Index
    passages: int
    load_embedder: Callable[[], Embedder]
    with_reranker: Callable[[], Index]
    query: Query

    @classmethod
    def of(
        cls,
        index: Index,
        passages: int,
        *,
        embedder: Path,
        store: Path,
        device: torch.device,
        query: Query,
    ) -> "Retriever":
        """Return one that loads the `embedder` of a manifest, and the index's reranker."""
        return cls(
            index,
            passages,
            partial(Embedder.load, embedder, store, device=device),
            partial(index.with_reranker, store, device),
            query,
        )

    def find(self, records: Sequence[Record]) -> list[list[ScoredPassage]]:
        """Return the passages for every record's query, at the deepest depth that is measured.

        Embedder and reranker are in memory until this returns.

        Raises:
            ConfigError: the index was built with another embedder, or its reranker is not there.
        """
        embedder = self.load_embedder() if self.index.settings.needs_embedder else None
        depth = max(*DEPTHS, self.passages)
        queries = [self.query(item.messages[:-1]) for item in records]
        return self.with_reranker().search(queries, depth, embedder)


@dataclass(frozen=True)
class RequestLimits:
    """How many records are asked in the modes of wrong and injected passages.

    `abstention` is the right answer where all passages are wrong. `none_asked` says why a mode asks
    no record.
    """

    distractors: int
    injected: int
    abstention: str
    none_asked: str = "params ask for none"


def make_requests(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    retriever: Retriever,
    limits: RequestLimits,
    *,
    open_book: bool,
) -> tuple[Request, ...]:
    """Return every record in every mode, with a retriever's passages, of which `found` were found.

    An open book allows modes with passages. No request depends on an answer, so all systems that
    are asked from one retriever are asked the same.
    """
    passages = retriever.passages
    plain = make_plain_requests(
        records, found, retriever.index, passages=passages, open_book=open_book
    )
    injected = make_injected_requests(plain, read_injections(), limits.injected)
    distractors = make_distractor_requests(
        records, found, count=limits.distractors, passages=passages, abstention=limits.abstention
    )
    return (*plain, *distractors, *injected)


@dataclass(frozen=True)
class NightRequests:
    """What tonight's systems are asked: records, what was found for them, and the requests.

    Records are as they are asked: of a conversation up to each turn, under one id. `feedback` is
    asked beside them, in a mode of its own.
    """

    records: Sequence[Record]
    feedback: Sequence[Record]
    retriever: Retriever
    limits: RequestLimits
    found: Sequence[Sequence[ScoredPassage]]
    retrieval_seconds: float
    requests: tuple[Request, ...]

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        feedback: Sequence[Record],
        retriever: Retriever,
        limits: RequestLimits,
    ) -> "NightRequests":
        """Return the requests of records with the passages that tonight's retriever finds."""
        started = time.monotonic()
        found = retriever.find(records)
        seconds = time.monotonic() - started
        open_book = bool(retriever.index.passages)
        requests = make_requests(records, found, retriever, limits, open_book=open_book)
        requests += _feedback_requests(feedback, retriever)
        return cls(records, feedback, retriever, limits, found, seconds, requests)

    def whole(self) -> tuple[list[Record], list[Sequence[ScoredPassage]]]:
        """Return each record once with what was found for it: of a conversation its last turn,
        whose documents are known.
        """
        last = {record.id: place for place, record in enumerate(self.records)}
        return [self.records[place] for place in last.values()], [
            self.found[place] for place in last.values()
        ]

    @property
    def sha256(self) -> str:
        """Return the hash of the records as they are asked, in any order."""
        return records_sha256(self.records)

    def from_other(self, retriever: Retriever) -> tuple[Request, ...]:
        """Return the requests of the same records, in the same modes, from another retriever."""
        found = retriever.find(self.records)
        open_book = bool(self.retriever.index.passages)
        requests = make_requests(self.records, found, retriever, self.limits, open_book=open_book)
        return requests + _feedback_requests(self.feedback, retriever)


def _feedback_requests(records: Sequence[Record], retriever: Retriever) -> tuple[Request, ...]:
    if not records:
        return ()
    found = retriever.find(records)
    return tuple(make_feedback_requests(records, found, passages=retriever.passages))


def primary_requests(
    records: Sequence[Record], retriever: Retriever, wanted_mode: str
) -> list[Request]:
    """Return the records in the primary mode alone."""
    requests = make_plain_requests(
        records,
        retriever.find(records),
        retriever.index,
        passages=retriever.passages,
        open_book=bool(retriever.index.passages),
    )
    mode = primary_mode(wanted_mode, {item.mode for item in requests})
    return split_by_mode(requests, mode)[0]


def primary_mode(wanted: str, asked: Collection[str]) -> str:
    """Return the mode of comparisons: the one wanted, or closed_book where none was asked in it."""
    return wanted if wanted in asked else "closed_book"


def split_by_mode(requests: Sequence[Request], mode: str) -> tuple[list[Request], list[Request]]:
    """Return the requests of one mode, and those of all others."""
    return (
        [item for item in requests if item.mode == mode],
        [item for item in requests if item.mode != mode],
    )


def count_requests(requests: Sequence[Request], limits: RequestLimits) -> dict[str, int | str]:
    """Return how many records each mode asks, with the reason where one asks none."""
    found: dict[str, int | str] = dict(Counter(item.mode for item in requests))
    wanted = {DISTRACTOR: limits.distractors, INJECTED: limits.injected}
    reasons = {
        DISTRACTOR: "no record has a gold document and a wrong passage beside it",
        INJECTED: "the data set has no documents",
    }
    for mode, count in wanted.items():
        if mode not in found:
            found |= {mode: 0, f"{mode}_reason": reasons[mode] if count else limits.none_asked}
    return found
