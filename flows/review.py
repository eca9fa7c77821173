"""The review queue: the served questions that are most worth a person's time, put into MLflow's."""

from dataclasses import dataclass
from pathlib import Path

from flows.servers import Services
from tasks.feedback.worth import by_worth
from tasks.records.schema import ServedModel
from tasks.scoring.abstentions import all_abstentions
from tasks.scoring.answer_scores import token_f1
from tasks.services.stores import Stores
from tasks.stage.params import read_yaml


@dataclass(frozen=True)
class Waiting:
    """A question that waits for a person: what was asked and answered, by what, and why it waits.

    `completion` is the id that the client was given.
    """

    completion: str
    version: str
    question: str
    answer: str
    reason: str


@dataclass(frozen=True)
class Review:
    """What is in the queue now, the first first, and the page that shows it.

    `page` is None where no MLflow server of `nightloom up` runs; `kept` are all served questions.
    """

    page: str | None
    kept: int
    waiting: tuple[Waiting, ...]


@dataclass(frozen=True)
class OtherAnswer:
    """A served question that a version answers otherwise than was served."""

    question: str
    served: str
    answer: str


def other_answers(stores: Stores, model: ServedModel, version: int, most: int) -> list[OtherAnswer]:
    """Return the served questions that a version answered otherwise in its release's shadow.

    At most so many, the most different first; none where nothing was served.

    Raises:
        ConfigError: the store is away.
    """
    # Deferred: MLflow takes seconds to import.
    from tasks.feedback.traces import ServedTraces

    name = f"{model}-{version}"
    found = [one for one in ServedTraces(stores).questions() if name in one.others]
    found.sort(key=lambda one: token_f1(one.others[name], one.exchange.answer))
    return [
        OtherAnswer(one.exchange.question, one.exchange.answer, one.others[name])
        for one in found[:most]
    ]


def fill_review_queue(checkout: Path, stores: Stores, most: int) -> Review:
    """Put the questions that are most worth looking at into the queue, at most so many.

    Raises:
        ConfigError: the store is away.
    """
    # Deferred: MLflow takes seconds to import.
    from tasks.feedback.review_queue import ReviewQueue
    from tasks.feedback.traces import ServedTraces

    questions = list(ServedTraces(stores).questions())
    markers = all_abstentions(read_yaml(checkout / "params" / "evaluation.yaml"))
    chosen = by_worth(questions, markers)[:most]
    queue = ReviewQueue(stores)
    queue.fill([one.question.trace for one in chosen])
    services = Services.read(checkout)
    return Review(
        page=None if services is None else f"{services.mlflow}{queue.page}",
        kept=len(questions),
        waiting=tuple(
            Waiting(
                completion=one.question.exchange.completion,
                version=f"{one.question.exchange.model} {one.question.exchange.version}",
                question=one.question.exchange.question,
                answer=one.question.exchange.answer,
                reason=one.reason,
            )
            for one in chosen
        ),
    )
