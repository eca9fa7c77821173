"""All the scores of one answer, as a row of predictions holds them."""

from collections.abc import Sequence
from typing import TypedDict

from tasks.evaluation.grounding import Shown, ground
from tasks.evaluation.questions import Question
from tasks.evaluation.scores import chrf, exact_match, length_ratio, rouge_l
from tasks.records.overlap import token_f1


class RowScores(TypedDict):
    """Fields of `Prediction`; what each means, and when it is None, is told there."""

    exact_match: float
    token_f1: float
    rouge_l: float
    chrf: float
    length_ratio: float | None
    groundedness: float | None
    unsupported: int
    attribution: float | None
    citation: float | None


def score_row(output: str, question: Question, markers: Sequence[str]) -> RowScores:
    """The scores of an answer to a question; `markers` begin an answer that abstains."""
    record, passages, reference = question.record, question.passages, question.reference
    shown = Shown(
        record.question,
        tuple(passage.shown for passage in passages),
        tuple(passage.document in record.documents for passage in passages),
    )
    found = ground(output, shown, markers)
    return RowScores(
        exact_match=exact_match(output, reference),
        token_f1=token_f1(output, reference),
        rouge_l=rouge_l(output, reference),
        chrf=chrf(output, reference),
        length_ratio=length_ratio([output], [reference]),
        groundedness=found.groundedness,
        unsupported=found.unsupported,
        attribution=found.attribution,
        citation=found.citation,
    )
