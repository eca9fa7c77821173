"""The first pass: each record normalised, masked, checked by itself, and noted in a few bytes."""

from array import array
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.curation.near_duplicates import Sketcher, Sketches
from tasks.curation.normalization import normalized_record
from tasks.curation.params import CurationParams
from tasks.curation.quality import broken_rule
from tasks.curation.questions import Measure, question_text, same_form
from tasks.curation.rowfile import RowFile, RowFileWriter
from tasks.privacy.masking import masked, masking_kinds
from tasks.privacy.params import PersonalDataParams
from tasks.records.schema import CURATED_SPLITS, Message, Record
from tasks.records.text import hash_share, text_sha256

TRAIN, VALIDATION, TEST, FEEDBACK = range(len(CURATED_SPLITS))


@dataclass(frozen=True)
class Prepared:
    """All records in the order in which they came, a few hundred bytes each.

    `splits` are places in `CURATED_SPLITS`; `is_feedback` says which rows people gave the answers
    of. `contents` (rows, 2) say which rows are equal, `forms` which
    ask the same question, `telling` which questions share their telling words (0: there are none).
    `own_texts` holds a line a row, what tells it from the others, of which `sketches` are made;
    `plain` are those rows that it holds whole.
    `rules` are the rows that go for what they are, by the rule; `masks` what was masked, by row and
    kind.
    """

    rows: RowFile
    ids: list[str]
    intakes: list[str]
    slices: list[str]
    splits: NDArray[np.uint8]
    is_feedback: NDArray[np.bool_]
    contents: NDArray[np.uint64]
    forms: NDArray[np.uint64]
    telling: NDArray[np.uint64]
    measure: Measure
    own_texts: RowFile
    plain: NDArray[np.bool_]
    sketches: Sketches
    rules: dict[int, str]
    masks: dict[int, Counter[str]]
    normalised: int

    @property
    def order(self) -> NDArray[np.int64]:
        """Return the rows as they came in over time: by intake, then by id; feedback comes last.

        So no row of another source ever gives way to it.
        """
        rows = sorted(
            range(len(self.ids)),
            key=lambda row: (self.is_feedback[row], self.intakes[row], self.ids[row]),
        )
        return np.array(rows, np.int64)


def split_of(group: str, params: CurationParams, *, is_feedback: bool = False) -> int:
    """Return the split that a group's hash gives; it depends on nothing else.

    Feedback is held out in a split of its own: what judges the champion stays as it is.
    """
    share = hash_share(group, params.salt)
    if share < params.test_share:
        return FEEDBACK if is_feedback else TEST
    return VALIDATION if share < params.test_share + params.validation_share else TRAIN


def prepare(records: Iterable[Record], params: CurationParams, scratch: Path) -> Prepared:
    """Return the prepared records; their lines go into a file in `scratch`."""
    notes = _Notes(params)
    with closing(RowFileWriter(scratch / "prepared.jsonl")) as writer:
        for record in records:
            writer.append(notes.take(record))
    with closing(RowFileWriter(scratch / "own_texts.txt")) as own_texts:
        return notes.finish(writer.rows(), own_texts)


def masked_record(record: Record, params: PersonalDataParams) -> tuple[Record, Counter[str]]:
    """Return the record with what its params mask masked, and what was found, by kind."""
    kinds = masking_kinds(params.model_dump())
    found: Counter[str] = Counter()
    messages = []
    for message in record.messages:
        text, counts = masked(message.content, kinds, params.phone_regions)
        found += counts
        messages.append(Message(message.role, text) if counts else message)
    rejected = record.rejected
    if rejected:
        rejected, counts = masked(rejected, kinds, params.phone_regions)
        found += counts
    if not found:
        return record, found
    return replace(record, messages=tuple(messages), rejected=rejected), found


class _Notes:
    """What is noted of each record as it passes."""

    def __init__(self, params: CurationParams) -> None:
        self._params = params
        self._ids: list[str] = []
        self._intakes: list[str] = []
        self._slices: list[str] = []
        self._names: dict[str, str] = {}
        self._splits = array("B")
        self._is_feedback = array("B")
        self._contents = array("Q")
        self._rules: dict[int, str] = {}
        self._masks: dict[int, Counter[str]] = {}
        self._normalised = 0
        self._characters = 0

    def take(self, raw: Record) -> Record:
        """Return the record as it will be written."""
        row, params = len(self._ids), self._params
        normal = normalized_record(raw)
        self._normalised += normal is not raw
        record, found = masked_record(normal, params.personal_data)
        if found:
            self._masks[row] = found
        actions = params.personal_data.model_dump()
        dropped = next((kind for kind in found if actions[kind] == "drop"), None)
        rule = f"holds_{dropped}" if dropped else broken_rule(record, params.quality)
        if rule:
            self._rules[row] = rule
        self._ids.append(record.id)
        self._intakes.append(self._name(record.intake))
        self._slices.append(self._name(record.slice))
        self._splits.append(split_of(record.group, params, is_feedback=record.is_feedback))
        self._is_feedback.append(record.is_feedback)
        turns = (f"{item.role}\n{item.content}" for item in record.messages)
        digest = int(text_sha256(*turns)[:32], 16)
        self._contents.extend((digest >> 64, digest & (2**64 - 1)))
        self._characters += sum(len(item.content) for item in record.messages)
        return record

    def _name(self, text: str) -> str:
        """Return the text, the same object for the same text."""
        return self._names.setdefault(text, text)

    def finish(self, rows: RowFile, own_texts: RowFileWriter) -> Prepared:
        """Return all that was noted, and what follows from all rows together."""
        contents = np.array(self._contents, np.uint64).reshape(-1, 2)
        distinct = (rows.record(row) for row in self._distinct(contents))
        measure = Measure.of(distinct, self._characters)
        forms, telling, plain = array("Q"), array("Q"), array("B")
        sketcher = self._sketcher()
        records, again = tee(map(rows.record, range(len(rows))))
        for record, own in zip(records, measure.wording.own_texts(again), strict=True):
            own_texts.append_line(own.line.encode() + b"\n")
            sketcher.add(own.line)
            plain.append(own.plain)
            form = same_form(question_text(record))
            forms.append(measure.form_key(form))
            telling.append(measure.telling_key(form))
        return Prepared(
            rows=rows,
            ids=self._ids,
            intakes=self._intakes,
            slices=self._slices,
            splits=np.array(self._splits, np.uint8),
            is_feedback=np.array(self._is_feedback, bool),
            contents=contents,
            forms=np.array(forms, np.uint64),
            telling=np.array(telling, np.uint64),
            measure=measure,
            own_texts=own_texts.rows(),
            plain=np.array(plain, bool),
            sketches=sketcher.finish(),
            rules=self._rules,
            masks=self._masks,
            normalised=self._normalised,
        )

    def _distinct(self, contents: NDArray[np.uint64]) -> list[int]:
        """Return the first of equal rows, and none that goes for what it is.

        Feedback is left out, too: what many people ask would no more tell one row from another, and
        what is a duplicate among the other rows would depend on what people ask.
        """
        others = np.flatnonzero(np.array(self._is_feedback, bool) == 0)
        firsts = others[np.unique(contents[others], axis=0, return_index=True)[1]]
        return [row for row in np.sort(firsts).tolist() if row not in self._rules]

    def _sketcher(self) -> Sketcher:
        params = self._params
        return Sketcher(
            characters=params.shingle_characters,
            permutations=params.permutations,
            similarity=min(params.duplicate_similarity, params.leak_similarity),
            seed=params.seed,
        )
