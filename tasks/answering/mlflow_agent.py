"""The agent that MLflow loads from code: a release bundle behind the Responses API.

The bundle comes as the artifact `bundle`; `model_config` may hold `model` (adapter or student) and
`model_store`. The base's weights are found by their digest in NIGHTLOOM_MODEL_STORE, else in
`model_store`, else below the working directory.
"""

import os
import threading
import uuid
from pathlib import Path

import mlflow
from mlflow.pyfunc.model import PythonModelContext, ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse
from mlflow.types.responses_helpers import OutputItem

from tasks.answering.loading import load_answerer
from tasks.records.schema import Message
from tasks.stage.errors import ConfigError

DEFAULT_STORE = ".nightloom/models"


class Agent(ResponsesAgent):
    """Answers with a bundle's adapter or student, from the passages of the bundle's index."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle, once every file of it is what its manifest says.

        Weights that are missing raise a `ConfigError` that names the remedy.
        """
        config = context.model_config or {}
        store = os.environ.get("NIGHTLOOM_MODEL_STORE") or config.get("model_store", DEFAULT_STORE)
        self.model = config.get("model", "adapter")
        self.answerer = load_answerer(Path(context.artifacts["bundle"]), Path(store), self.model)
        # MLflow's server calls from many threads; tokenizers are not made for that.
        self.one_at_a_time = threading.Lock()

    def predict(  # type: ignore[override]  # ResponsesAgent narrows PythonModel's signature
        self, request: ResponsesAgentRequest
    ) -> ResponsesAgentResponse:
        """Return the answer as one output item, with the passages used in `custom_outputs`."""
        turns = _turns(request)
        with self.one_at_a_time:
            (answer,) = self.answerer.answer([turns])
        item = self.create_text_output_item(answer.text, id=f"msg_{uuid.uuid4().hex}")
        passages = [
            {"id": used.passage.id, "text": used.passage.shown, "score": used.score}
            for used in answer.passages
        ]
        return ResponsesAgentResponse(
            output=[OutputItem(**item)],
            custom_outputs={
                "model": self.model,
                "passages": passages,
                "prompt_sha256": answer.prompt_sha256,
                "token_ids": list(answer.token_ids),
                "latency_ms": answer.latency_ms,
            },
        )


def _turns(request: ResponsesAgentRequest) -> list[Message]:
    """Return the request's turns; the last must be the user's."""
    items = [item.model_dump() for item in request.input]
    turns = [Message(str(item.get("role")), _text(item.get("content"))) for item in items]
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise ConfigError(
            "the request does not end with a user's turn that has text; there is nothing to answer",
            'send {"input": [{"role": "user", "content": "..."}]}',
        )
    return turns


def _text(content: object) -> str:
    """Return the text of a turn; its content is a string or a list of parts, some of them text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


mlflow.models.set_model(Agent())
