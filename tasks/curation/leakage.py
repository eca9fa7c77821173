"""The three-way leakage check, over the finished files alone.

It shares with the selection what likeness and a same question are, and nothing of how such pairs
are found: no MinHash, no order of removals, no record in memory that was not read back from the
files. So it can find what the selection missed, and what was written wrongly.

1. `questions`: rows of train that ask a test question, or nearly repeat a test row as a whole.
2. `few_shot`: rows of train, from which few-shot examples are drawn, that are a test record: the
   same id, the same turns, or the same group, that is the same gold document.
3. `documents`: documents that hold a test question and its answer, both.

`groups` counts the groups that stand in more than one split.

Texts alike to one of a set are found exactly (`similar_sets`)."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, tee
from pathlib import Path

import numpy as np

from tasks.curation.likeness import OwnText, Told, compare
from tasks.curation.params import CurationParams
from tasks.curation.questions import Measure, key, question_text, same_form
from tasks.curation.rowfile import RowFile
from tasks.curation.shingling import Hashes, shingle_hashes
from tasks.curation.similar_sets import SimilarSets
from tasks.records.schema import SPLITS, Record, stream_documents, stream_records

# The first characters of a question, of which a document is asked for every one; the longer of the
# two that the question has. A question shorter than both is too common to be a quotation.
_ANCHORS = (16, 6)


class QuotationIndex:
    """Questions and answers in `same_form`, to be looked for in documents."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._anchors: dict[int, tuple[Hashes, list[int]]] = {}
        for place, width in enumerate(_ANCHORS):
            longer = _ANCHORS[place - 1] if place else None
            rows = [
                row
                for row, (question, _) in enumerate(pairs)
                if width <= len(question) and (longer is None or len(question) < longer)
            ]
            if rows:
                hashes, _ = shingle_hashes([pairs[row][0][:width] for row in rows], width)
                order = np.argsort(hashes, kind="stable")
                self._anchors[width] = hashes[order], [rows[item] for item in order]

    def find(self, text: str) -> list[int]:
        """Return the places of the pairs that a text holds, question and answer both."""
        form = same_form(text)
        found = []
        for width, (anchors, rows) in self._anchors.items():
            if len(form) < width:
                continue
            windows = np.unique(shingle_hashes([form], width)[0])
            hits = np.flatnonzero(np.isin(anchors, windows, assume_unique=False))
            found += [rows[hit] for hit in hits]
        return sorted(row for row in found if all(part in form for part in self._pairs[row]))


_EXAMPLES = 5

_TOLD_HELD = 256

_BATCH = 250


@dataclass(frozen=True)
class Leak:
    """A test record that is known where it must not be, and the id of the row that knows it."""

    way: str
    test: str
    where: str


@dataclass(frozen=True)
class Leakage:
    """What the check found; the leaks of each way are named by ids alone, never by their texts."""

    counts: dict[str, int]
    examples: dict[str, list[Leak]]
    compared: dict[str, int]

    @property
    def total(self) -> int:
        """Return all leaks of all ways."""
        return sum(self.counts.values())


class _Tally:
    def __init__(self) -> None:
        self.counts = dict.fromkeys(("questions", "few_shot", "documents", "groups"), 0)
        self.examples: dict[str, list[Leak]] = {way: [] for way in self.counts}

    def add(self, leak: Leak) -> None:
        self.counts[leak.way] += 1
        if len(self.examples[leak.way]) < _EXAMPLES:
            self.examples[leak.way].append(leak)


def check_leakage(curated: Path, measure: Measure, params: CurationParams) -> Leakage:
    """Return what of the test split is known to train, to few-shot prompts and to the documents."""
    tally = _Tally()
    tests = _Tests(RowFile.index(curated / "test.jsonl"), measure, params)
    groups = array("Q")
    rows = stream_records(curated / "train.jsonl")
    while batch := list(islice(rows, _BATCH)):
        groups.extend(key(record.group) for record in batch)
        for record, alike in zip(batch, tests.nearly_repeated(batch), strict=True):
            for leak in tests.leaks(record, alike):
                tally.add(leak)
    documents = 0
    for document in stream_documents(curated / "documents.jsonl"):
        documents += 1
        for test in tests.quoted(f"{document.title}\n{document.text}"):
            tally.add(Leak("documents", test, document.id))
    for group in _shared_groups(curated, groups):
        tally.add(Leak("groups", group, group))
    compared = {"train": len(groups), "test": len(tests), "documents": documents}
    return Leakage(tally.counts, tally.examples, compared)


def _shared_groups(curated: Path, train: "array[int]") -> Iterator[str]:
    """Yield the groups that stand in more than one split; `train` are the keys of train's."""
    train_split, *others = SPLITS
    seen = {train_split: np.unique(np.array(train, np.uint64))}
    for split in others:
        groups = (key(record.group) for record in stream_records(curated / f"{split}.jsonl"))
        found = np.unique(np.fromiter(groups, np.uint64))
        for other, known in seen.items():
            for number in np.intersect1d(found, known):
                yield f"a group of {other} and {split}, number {number:016x}"
        seen[split] = found


class _Tests:
    """The test split, to be asked who knows it."""

    def __init__(self, rows: RowFile, measure: Measure, params: CurationParams) -> None:
        self._rows = rows
        self._measure = measure
        self._params = params
        self._ids: dict[str, int] = {}
        self._turns: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._forms: dict[int, int] = {}
        self._telling: dict[int, list[int]] = {}
        self._plain: list[bool] = []
        quotes: list[tuple[str, str]] = []
        texts = []
        records, again = tee(map(rows.record, range(len(rows))))
        for record, own in zip(records, measure.wording.own_texts(again), strict=True):
            quotes.append(self._note(len(quotes), record))
            texts.append(own.line)
            self._plain.append(own.plain)
        self._quotations = QuotationIndex(quotes)
        self._sets = SimilarSets(texts, params.shingle_characters, params.leak_similarity)
        self._told = lru_cache(maxsize=_TOLD_HELD)(self._tell)

    def __len__(self) -> int:
        return len(self._rows)

    def _note(self, number: int, record: Record) -> tuple[str, str]:
        """Return question and answer in `same_form`; the row is now found by what it is."""
        form = same_form(question_text(record))
        self._ids.setdefault(record.id, number)
        self._turns.setdefault(_turns(record), number)
        self._groups.setdefault(record.group, number)
        self._forms.setdefault(self._measure.form_key(form), number)
        self._telling.setdefault(self._measure.telling_key(form), []).append(number)
        return form, same_form(record.answer)

    def nearly_repeated(self, records: list[Record]) -> list[int | None]:
        """Return for each record a test row that it nearly repeats as a whole."""
        own = list(self._measure.wording.own_texts(records))
        found = self._sets.alike([text.line for text in own])
        return [self._repeated(*item) for item in zip(records, own, found, strict=True)]

    def _repeated(self, record: Record, own: OwnText, alike: list[int]) -> int | None:
        """Return the first of the rows that a record is alike to word by word, too."""
        told = None
        for row in alike:
            if own.plain and self._plain[row]:
                return row
            told = told or self._measure.wording.told(record)
            likeness = compare(told, self._told(row), self._params.shingle_characters)
            if likeness.whole >= self._params.leak_similarity:
                return row
        return None

    def _tell(self, row: int) -> Told:
        return self._measure.wording.told(self._rows.record(row))

    def leaks(self, record: Record, alike: int | None) -> Iterator[Leak]:
        """Yield what a row of train knows of the test split, at most one leak a way."""
        asked = alike if alike is not None else self._asked(record)
        if asked is not None:
            yield Leak("questions", self._rows.record(asked).id, record.id)
        found = (self._ids.get(record.id), self._turns.get(_turns(record)),
                 self._groups.get(record.group))  # fmt: skip
        held = next((row for row in found if row is not None), None)
        if held is not None:
            yield Leak("few_shot", self._rows.record(held).id, record.id)

    def quoted(self, text: str) -> list[str]:
        """Return the ids of the test records whose question and answer a text holds."""
        return [self._rows.record(row).id for row in self._quotations.find(text)]

    def _asked(self, record: Record) -> int | None:
        """Return a test row with the same question, or nearly the same."""
        form = same_form(question_text(record))
        number, told = self._measure.form_key(form), self._measure.telling_key(form)
        if number and number in self._forms:
            return self._forms[number]
        characters = self._params.shingle_characters
        for row in self._telling.get(told, []) if told else []:
            if self._measure.asked(record, self._rows.record(row), characters) is not None:
                return row
        return None


def _turns(record: Record) -> str:
    return "\0".join([f"{message.role}\0{message.content}" for message in record.messages])
