"""What people have called right, as documents: where it is asked again, it is found and shown."""

from collections.abc import Iterator

import numpy as np

from tasks.curation.leakage import QuotationIndex
from tasks.curation.preparation import TEST, TRAIN, VALIDATION, Prepared
from tasks.curation.questions import question_text, same_form
from tasks.curation.selection import Removals
from tasks.records.schema import Document, Record
from tasks.records.tool_text import read_said


def correction_documents(prepared: Prepared, removals: Removals) -> dict[str, Document]:
    """Return the documents of the feedback that is learned, by the id of both, in its order.

    The question is the title, the answer is the text. What is held out becomes none, nor does what
    holds a question of the test split together with its answer, nor a question that came after
    other turns, which says too little without them.
    """
    alone = [
        record
        for record in _records(prepared, removals, (TRAIN, VALIDATION), feedback=True)
        if sum(message.role == "user" for message in record.messages) == 1
        and not read_said(record.answer).has_call  # a call answers nobody's question
    ]
    if not alone:
        return {}
    quotations = QuotationIndex(
        [
            (same_form(question_text(record)), same_form(record.answer))
            for record in _records(prepared, removals, (TEST,), feedback=False)
        ]
    )
    return {
        record.id: Document(
            record.id,
            record.answer,
            record.question,
            record.source,
            record.license,
            is_correction=True,
        )
        for record in sorted(alone, key=lambda record: record.id)
        if not quotations.find(f"{record.question}\n{record.answer}")
    }


def _records(
    prepared: Prepared, removals: Removals, splits: tuple[int, ...], *, feedback: bool
) -> Iterator[Record]:
    chosen = np.isin(prepared.splits, splits) & (prepared.is_feedback == feedback)
    for row in np.flatnonzero(chosen).tolist():
        if row not in removals:
            yield prepared.rows.record(row)
