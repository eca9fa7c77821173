"""Which served questions are most worth a person's time, and why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.feedback.exchanges import ShownPassage
from tasks.feedback.served import ServedQuestion
from tasks.scoring.answer_scores import abstains, token_f1
from tasks.scoring.grounding import ShownPassages, ground

# In this order; a question is taken for the first that holds.
MARKED_BAD = "marked bad, and no right answer is given"
ABSTAINED = "the model said that it does not know"
POORLY_GROUNDED = "little of the answer stands in the passages"
DISAGREEMENT = "another model answers otherwise"
OTHER = "not looked at yet"
REASONS = (MARKED_BAD, DISAGREEMENT, ABSTAINED, POORLY_GROUNDED, OTHER)

_GROUNDED = 0.6
_ALIKE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A question to look at: the first reason for it, and how much it says so, in [0, 1]."""

    question: ServedQuestion
    reason: str
    weight: float


def by_worth(questions: Iterable[ServedQuestion], markers: Sequence[str]) -> list[Candidate]:
    """Return the questions that nobody has answered for yet, those most worth looking at first.

    Of equal worth the newest comes first. `markers` begin an answer that abstains.
    """
    found = [_candidate(question, markers) for question in questions if not is_settled(question)]
    return sorted(
        found,
        key=lambda one: (
            REASONS.index(one.reason),
            -one.weight,
            -one.question.exchange.asked.timestamp(),
        ),
    )


def is_settled(question: ServedQuestion) -> bool:
    """Return whether a person has said what the right answer is."""
    return question.correct is True or question.expected is not None


def right_answer(question: ServedQuestion) -> str | None:
    """Return the answer that people say is right, None where they have not."""
    if question.expected is not None:
        return question.expected
    return question.exchange.answer if question.correct else None


def wrong_answer(question: ServedQuestion) -> str | None:
    """Return the served answer where people gave another one in its place, None elsewhere."""
    served = question.exchange.answer.strip()
    if question.correct or question.expected is None or question.expected.strip() == served:
        return None
    return served or None


def groundedness(
    question: str, answer: str, passages: Sequence[ShownPassage], markers: Sequence[str]
) -> float | None:
    """Return the share of an answer's terms that its passages support, None where none claims."""
    texts = tuple(passage.text for passage in passages)
    shown = ShownPassages(question, texts, (False,) * len(texts))
    return ground(answer, shown, markers).groundedness


def _candidate(question: ServedQuestion, markers: Sequence[str]) -> Candidate:
    exchange = question.exchange
    answer = exchange.answer
    apart = max((1 - token_f1(other, answer) for other in question.others.values()), default=0.0)
    if question.correct is False:
        return Candidate(question, MARKED_BAD, 1.0)
    if apart > _ALIKE:
        return Candidate(question, DISAGREEMENT, apart)
    if abstains(answer, markers) or not answer.strip():
        return Candidate(question, ABSTAINED, 1.0)
    rests = groundedness(exchange.question, answer, exchange.passages, markers)
    if rests is not None and rests < _GROUNDED:
        return Candidate(question, POORLY_GROUNDED, 1 - rests)
    return Candidate(question, OTHER, apart)
