"""Parity: the bundle, loaded as it will be served, answers as the models did in evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.answering.pipeline import Answer
from tasks.records.predictions import Prediction, last_turns
from tasks.records.schema import Record
from tasks.scoring.parity import parity_score
from tasks.stage.errors import DataError, GateError

# Of answers in words; other tasks have a metric of their own.
PARITY_METRIC = "token_f1"


@dataclass(frozen=True)
class ParityRow:
    """One answer of the bundle beside evaluation's answer to the same record, both scored."""

    model: str
    record: str
    question: str
    reference: str
    expected: str
    answer: str
    expected_score: float
    score: float
    same_prompt: bool

    @property
    def agrees(self) -> bool:
        """Return whether prompt and answer are what evaluation had."""
        return self.same_prompt and self.answer == self.expected


def parity_row(model: str, record: Record, answer: Answer, expected: Prediction) -> ParityRow:
    """Return one answer beside evaluation's."""
    return ParityRow(
        model=model,
        record=record.id,
        question=record.question,
        reference=record.answer,
        expected=expected.output,
        answer=answer.text,
        expected_score=parity_score(expected, expected.output),
        score=parity_score(expected, answer.text),
        same_prompt=answer.prompt_sha256 == expected.prompt_sha256,
    )


def choose_asked(
    records: Sequence[Record], predictions: Sequence[Prediction], count: int
) -> tuple[list[Record], dict[tuple[str, str], Prediction]]:
    """Return the first `count` records that evaluation predicted, and its answers to them.

    The answers are by system and record, of a conversation to its last turn. Served models retrieve
    when there are documents, so their peers are evaluation's answers in mode retrieved, or
    closed_book without documents.

    Raises:
        DataError: evaluation predicted none of the records.
    """
    mode = "retrieved" if any(row.mode == "retrieved" for row in predictions) else "closed_book"
    last = last_turns(row for row in predictions if row.mode == mode)
    expected = {(row.system, row.record): row for row in last}
    asked = [record for record in records if ("adapter", record.id) in expected][:count]
    if not asked:
        raise DataError(
            "evaluation predicted none of the test split's records, so the bundle has nothing to "
            "be compared with",
            "run `nightloom run`, so that evaluation and packaging see the same split",
        )
    return asked, expected


def check_parity(rows: Sequence[ParityRow], max_mismatch: float) -> None:
    """Check that a model's answers from the bundle are those of evaluation.

    Raises:
        GateError: more than `max_mismatch` of them differ.
    """
    differing = [item for item in rows if not item.agrees]
    if len(differing) <= max_mismatch * len(rows):
        return
    first = differing[0]
    where = "the answer" if first.same_prompt else "the prompt"
    raise GateError(
        f"the {first.model} in the bundle differs from what it answered in evaluation on "
        f"{len(differing)} of {len(rows)} records; at most {max_mismatch:.0%} may. In "
        f"{first.record}, {where} differs: {first.answer!r} instead of {first.expected!r}. What is "
        "served must be what was scored",
        "run `dvc repro --force --single-item evaluation` and packaging again; if they "
        "still differ, report it with both outputs",
    )


def share_agreeing(rows: Sequence[ParityRow]) -> float:
    """Return the share of answers that agree with evaluation's."""
    return sum(item.agrees for item in rows) / len(rows)


def score_parity(rows: Sequence[ParityRow], metric: str) -> dict[str, Any]:
    """Return what the differences are worth in the metric of the rows, as `metrics.json` holds it.

    `difference` is the mean score of the served answers minus that of evaluation's, on the same
    records; `largest_difference` is the largest of one record, whatever its sign.
    """
    served = sum(item.score for item in rows) / len(rows)
    evaluated = sum(item.expected_score for item in rows) / len(rows)
    return {
        "metric": metric,
        "records": len(rows),
        "agreeing": sum(item.agrees for item in rows),
        "same_prompts": sum(item.same_prompt for item in rows),
        "served": served,
        "evaluated": evaluated,
        "difference": served - evaluated,
        "largest_difference": max(abs(item.score - item.expected_score) for item in rows),
    }
