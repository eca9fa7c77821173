"""The questions and tests that are put to systems: the same records for all of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.evaluation.comparisons import primary_mode
from tasks.evaluation.injections import Injection, pose_injections
from tasks.evaluation.library import Library
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.questions import Question, pose, pose_distractors
from tasks.records.predictions import DISTRACTOR, INJECTED
from tasks.records.record import Record
from tasks.serving.retrieval import ScoredPassage


@dataclass(frozen=True)
class Examination:
    """The scored records, and how they are asked; an open book allows modes with passages."""

    records: Sequence[Record]
    injections: Sequence[Injection]
    open_book: bool
    params: EvaluationParams

    def questions(
        self, library: Library, found: Sequence[Sequence[ScoredPassage]]
    ) -> tuple[Question, ...]:
        """Every record in every mode, with the passages of a library, of which `found` were found.

        None is repeated in another mode because of what a system answers: all that are asked from
        one library are asked the same.
        """
        params = self.params
        posed = pose(
            self.records,
            found,
            library.index,
            passages=library.passages,
            open_book=self.open_book,
        )
        distractors = pose_distractors(
            self.records,
            found,
            count=params.distractor_records,
            passages=library.passages,
            abstention=params.abstentions[0],
        )
        injected = pose_injections(posed, self.injections, params.injection_records)
        return (*posed, *distractors, *injected)


def primary_questions(
    records: Sequence[Record], library: Library, params: EvaluationParams
) -> list[Question]:
    """Records in the primary mode alone."""
    open_book = bool(library.index.passages)
    found = library.find(records)
    posed = pose(records, found, library.index, passages=library.passages, open_book=open_book)
    mode = primary_mode(params.primary_mode, {question.mode for question in posed})
    return [question for question in posed if question.mode == mode]


def count_questions(
    questions: Sequence[Question], params: EvaluationParams
) -> dict[str, int | str]:
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
