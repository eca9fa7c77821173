"""MLflow's review queue of served questions: its questions to people, and what lies in it."""

import time
from collections.abc import Sequence
from typing import Literal

from mlflow.genai import label_schemas, review_queues
from mlflow.genai.label_schemas import InputPassFail, InputText
from mlflow.tracking import MlflowClient

from tasks.feedback.traces import CORRECT, EXPECTED, use_store
from tasks.services.stores import SERVED, Stores, open_experiment

QUEUE = "nightloom"
_PAGE = 500
_Kind = Literal["feedback", "expectation"]
_Widget = InputPassFail | InputText
_ASKED: tuple[tuple[str, _Kind, _Widget, str], ...] = (
    (
        CORRECT,
        "feedback",
        InputPassFail(positive_label="Right", negative_label="Wrong"),
        "Is the answer right? A right answer is learned as it stands.",
    ),
    (
        EXPECTED,
        "expectation",
        InputText(),
        "Where it is wrong: the answer that would be right. It is learned.",
    ),
)


class ReviewQueue:
    """The queue of one MLflow store, made where it is missing."""

    def __init__(self, stores: Stores) -> None:
        use_store(stores.tracking_uri)  # MLflow's functions ask no other
        client = MlflowClient(stores.tracking_uri)
        self._experiment = open_experiment(client, SERVED, stores.location)
        self._queue = self._opened()

    @property
    def page(self) -> str:
        """Return the queue's place in MLflow's UI, from the server's address on."""
        return f"/#/experiments/{self._experiment}/review-queue"

    def fill(self, traces: Sequence[str]) -> None:
        """Let the queue hold these and no other pending ones, the first first.

        What people are through with stays.
        """
        if pending := self.pending():
            review_queues.remove_items_from_review_queue(self._queue, item_ids=pending)
        # MLflow shows first what came last, by the millisecond.
        for trace in reversed(traces):
            review_queues.add_items_to_review_queue(self._queue, item_ids=[trace])
            time.sleep(0.002)

    def pending(self) -> list[str]:
        """Return the traces that wait, the first first."""
        found: list[str] = []
        token = None
        while True:
            page = review_queues.list_review_queue_items(
                self._queue, status="pending", max_results=_PAGE, page_token=token
            )
            found += [item.item_id for item in page]
            token = page.token
            if not token:
                return found

    def _opened(self) -> str:
        for queue in review_queues.list_review_queues(experiment_id=self._experiment):
            if queue.name == QUEUE:
                return str(queue.queue_id)
        made = review_queues.create_review_queue(
            QUEUE,
            queue_type="custom",
            schema_ids=self._schemas(),
            experiment_id=self._experiment,
        )
        return str(made.queue_id)

    def _schemas(self) -> list[str]:
        """Return the ids of what people are asked of each answer, made where they are missing."""
        known = {
            schema.name: str(schema.schema_id)
            for schema in label_schemas.list_label_schemas(experiment_id=self._experiment)
        }
        for name, kind, widget, instruction in _ASKED:
            if name not in known:
                made = label_schemas.create_label_schema(
                    name,
                    type=kind,
                    input=widget,
                    instruction=instruction,
                    enable_comment=kind == "feedback",
                    experiment_id=self._experiment,
                )
                known[name] = str(made.schema_id)
        return [known[name] for name, *_ in _ASKED]
