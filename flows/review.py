"""The review queue: the served questions that are most worth a person's time, put into MLflow's."""

from dataclasses import dataclass
from pathlib import Path

from flows.servers import Services
from tasks.feedback.worth import by_worth
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


def fill_review_queue(checkout: Path, stores: Stores, most: int) -> Review:
    """Put the questions that are most worth looking at into the queue, at most so many.

    Raises:
        ConfigError: the store is away.
    """
    # Deferred: MLflow takes seconds to import.
    from tasks.feedback.review_queue import ReviewQueue
    from tasks.feedback.traces import ServedTraces

    questions = list(ServedTraces(stores).questions())
    markers = read_yaml(checkout / "params" / "evaluation.yaml")["abstentions"]
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
