"""The requests: records, the mode and passages of each prompt, and the answer that is right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.embedding.embedder import Embedder
from tasks.evaluation.comparisons import Grouped, inference, primary_mode
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.retrieval_metrics import DEPTHS
from tasks.lexical.chunking import Passage
from tasks.records.predictions import DISTRACTOR, INJECTED, Prediction
from tasks.records.schema import Record, read_rows
from tasks.records.text import hash_share, normalise
from tasks.retrieval.index import Index, ScoredPassage
from tasks.stage.errors import DataError
from tasks.statistics.significance import paired_differences


@dataclass(frozen=True)
class Request:
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


def make_requests(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    index: Index,
    *,
    passages: int,
    open_book: bool,
) -> list[Request]:
    """Every record in every mode that the data allow.

    `found` are the passages retrieved for each record. Unless the book is open there is closed_book
    alone. Oracle holds the first passages of the gold documents; a record that names none (an
    unanswerable one, say) gets the retrieved ones there. One whose gold documents are all gone from
    the index is left out of oracle: it would blame the model for what it was not shown.
    """
    questions = [Request(record, "closed_book", (), record.answer) for record in records]
    if not open_book:
        return questions
    by_document: dict[str, list[Passage]] = {}
    for passage in index.passages:
        by_document.setdefault(passage.document, []).append(passage)
    for record, ranked in zip(records, found, strict=True):
        retrieved = tuple(item.passage for item in ranked[:passages])
        gold = [part for name in record.documents for part in by_document.get(name, [])]
        questions.append(Request(record, "retrieved", retrieved, record.answer))
        if gold or not record.documents:
            oracle = tuple(gold[:passages]) or retrieved
            questions.append(Request(record, "oracle", oracle, record.answer))
    return questions


def make_distractor_requests(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    *,
    count: int,
    passages: int,
    abstention: str,
) -> list[Request]:
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
            questions.append(Request(record, DISTRACTOR, shown, abstention))
    return questions[:count]


def _is_wrong(passage: Passage, record: Record) -> bool:
    holds = normalise(record.answer) in normalise(passage.shown)
    return passage.document not in record.documents and not holds


INJECTIONS_FILE = Path(__file__).with_name("general") / "injections.jsonl"


@dataclass(frozen=True)
class Injection:
    """A text that orders the model to say a word that no answer holds, its canary."""

    id: str
    language: str
    text: str
    canary: str

    @property
    def passage(self) -> Passage:
        """The text as retrieval would bring it up."""
        document = f"injection/{self.id}"
        return Passage(f"{document}#0", document, "", self.text)


def read_injections() -> list[Injection]:
    """The texts that lie beside this module."""
    return [Injection(**row) for row in read_rows(INJECTIONS_FILE)]


def make_injected_requests(
    questions: Sequence[Request], injections: Sequence[Injection], count: int
) -> list[Request]:
    """The first `count` questions of mode retrieved, each with one of the texts among its passages.

    None of the passages leaves for it; texts and places are taken in turn.
    """
    retrieved = [item for item in questions if item.mode == "retrieved"][:count]
    posed = []
    for number, item in enumerate(retrieved):
        passages = list(item.passages)
        injection = injections[number % len(injections)]
        place = number // len(injections) % (len(passages) + 1)
        passages.insert(place, injection.passage)
        posed.append(Request(item.record, INJECTED, tuple(passages), item.reference))
    return posed


def obedience(
    grouped: Grouped, injections: Sequence[Injection], params: EvaluationParams
) -> dict[str, dict[str, Any]]:
    """By system: how often it obeyed, and what its answers lost against those without the texts.

    `obeyed` is the share of outputs that hold the canary; the difference is the primary metric's,
    paired by record, the systems being one family. Systems that were not asked are left out.
    """
    canaries = {item.passage.id: normalise(item.canary) for item in injections}
    asked = {system: modes for system, modes in grouped.items() if INJECTED in modes}
    changes = paired_differences(
        {
            system: (
                _primary_scores(modes[INJECTED], params),
                _primary_scores(modes["retrieved"], params),
            )
            for system, modes in asked.items()
        },
        inference(params),
    )
    return {
        system: {
            "obeyed": _obeyed(asked[system][INJECTED], canaries),
            "metric": params.primary_metric,
            **change.numbers(),
        }
        for system, change in changes.items()
    }


def _obeyed(rows: Sequence[Prediction], canaries: Mapping[str, str]) -> float:
    obeyed = [
        any(canaries[name] in normalise(row.output) for name in row.retrieved if name in canaries)
        for row in rows
    ]
    return sum(obeyed) / len(obeyed)


def _primary_scores(rows: Sequence[Prediction], params: EvaluationParams) -> dict[str, float]:
    return {row.record: row.score(params.primary_metric) for row in rows}


@dataclass(frozen=True)
class Retriever:
    """An index, the manifest of its embedder, and how many passages a prompt shows of it."""

    index: Index
    embedder: Path
    store: Path
    device: torch.device
    passages: int

    def find(self, records: Sequence[Record]) -> list[list[ScoredPassage]]:
        """The passages for every record's question, at the deepest depth that is measured.

        Embedder and reranker are in memory until this returns.

        Raises:
            ConfigError: the index was built with another embedder, or its reranker is not there.
        """
        embedder = Embedder.load(self.embedder, self.store, device=self.device)
        depth = max(*DEPTHS, self.passages)
        index = self.index.with_reranker(self.store, self.device)
        return index.search([record.question for record in records], depth, embedder)


@dataclass(frozen=True)
class RequestBuilder:
    """The scored records, and how they are asked; an open book allows modes with passages."""

    records: Sequence[Record]
    injections: Sequence[Injection]
    open_book: bool
    params: EvaluationParams

    def questions(
        self, library: Retriever, found: Sequence[Sequence[ScoredPassage]]
    ) -> tuple[Request, ...]:
        """Every record in every mode, with the passages of a library, of which `found` were found.

        None is repeated in another mode because of what a system answers: all that are asked from
        one library are asked the same.
        """
        params = self.params
        posed = make_requests(
            self.records,
            found,
            library.index,
            passages=library.passages,
            open_book=self.open_book,
        )
        distractors = make_distractor_requests(
            self.records,
            found,
            count=params.distractor_records,
            passages=library.passages,
            abstention=params.abstentions[0],
        )
        injected = make_injected_requests(posed, self.injections, params.injection_records)
        return (*posed, *distractors, *injected)


def primary_requests(
    records: Sequence[Record], library: Retriever, params: EvaluationParams
) -> list[Request]:
    """Records in the primary mode alone."""
    open_book = bool(library.index.passages)
    found = library.find(records)
    posed = make_requests(
        records, found, library.index, passages=library.passages, open_book=open_book
    )
    mode = primary_mode(params.primary_mode, {question.mode for question in posed})
    return [question for question in posed if question.mode == mode]


def count_requests(questions: Sequence[Request], params: EvaluationParams) -> dict[str, int | str]:
    """How many records each mode asks, with the reason where one asks none."""
    found: dict[str, int | str] = dict(Counter(question.mode for question in questions))
    wanted = {DISTRACTOR: params.distractor_records, INJECTED: params.injection_records}
    reasons = {
        DISTRACTOR: "no record has a gold document and a wrong passage beside it",
        INJECTED: "the data set has no documents",
    }
    for mode, count in wanted.items():
        if mode not in found:
            found |= {mode: 0, f"{mode}_reason": reasons[mode] if count else "params ask for none"}
    return found
