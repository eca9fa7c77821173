"""Rows from served questions whose right answer people have given; see `nightloom review`.

A question is taken where a reviewer or client gave the right answer, or marked the model's own as
right. What nobody looked at is never taken. The row's id is that of the completion, so that a
later correction replaces an earlier one.
"""

from collections.abc import Iterator

from tasks.feedback.worth import right_answer, wrong_answer
from tasks.ingestion.sources.source import Found, Kind, Mark
from tasks.records.readers import canonical_json, parse_line
from tasks.services.stores import SERVED, Stores

SLICE = "feedback"


class FeedbackSource:
    """The reviewed questions that MLflow keeps. There may be none, and old ones are deleted."""

    increments = True
    origin = (f"MLflow's experiment {SERVED}",)

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def read(self, kind: Kind) -> Iterator[Found]:
        """Yield a row a reviewed question, oldest first.

        Raises:
            ConfigError: the store is away.
        """
        if kind == "documents":
            return
        # Deferred: MLflow takes seconds to import.
        from tasks.feedback.traces import ServedTraces

        for number, question in enumerate(ServedTraces(self._stores).questions(), start=1):
            answer = right_answer(question)
            if answer is None:
                continue
            turns = [*question.exchange.turns, ("assistant", answer)]
            row = {
                "id": question.exchange.completion,
                "messages": [{"role": role, "content": text} for role, text in turns],
                "slice": SLICE,
            }
            if wrong := wrong_answer(question):
                row["rejected_answer"] = wrong
            yield Found(SERVED, parse_line(number, canonical_json(row)))

    def updated(self) -> str | None:
        """Return None: people mark old answers, too."""
        return None

    def marks(self) -> dict[Kind, Mark]:
        """Return None: what is kept is read whole."""
        return {}
