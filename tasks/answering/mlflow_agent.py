"""The agent that MLflow loads from code: a release bundle behind the Responses API.

The bundle comes as the artifact `bundle`; `model_config` may hold `model` (adapter or student) and
`model_store`. The base's weights are found by their digest in NIGHTLOOM_MODEL_STORE, else in
`model_store`, else below the working directory.
"""

import os
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModelContext, ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse
from mlflow.types.responses_helpers import OutputItem

from tasks.answering.loading import load_answerer
from tasks.answering.response_items import conversation, shown_tools
from tasks.records.tool_text import Call, given_back

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
        """Return the answer as output items, its words and each call, with the passages used in
        `custom_outputs`.
        """
        asked = request.model_dump()
        tools = shown_tools(
            asked.get("tools") or [], asked.get("tool_choice"),
            calls_tools=self.answerer.calls_tools,
        )  # fmt: skip
        turns = conversation(asked["input"], tools)
        with self.one_at_a_time:
            (answer,) = self.answerer.answer([turns])
        words, calls = _given(tools, answer.text)
        items = [self._call_item(call) for call in calls]
        if words or not calls:
            items.insert(0, self.create_text_output_item(words, id=f"msg_{uuid.uuid4().hex}"))
        passages = [
            {"id": used.passage.id, "text": used.passage.shown, "score": used.score}
            for used in answer.passages
        ]
        return ResponsesAgentResponse(
            output=[OutputItem(**item) for item in items],
            custom_outputs={
                "model": self.model,
                "passages": passages,
                "prompt_sha256": answer.prompt_sha256,
                "token_ids": list(answer.token_ids),
                "latency_ms": answer.latency_ms,
            },
        )

    def _call_item(self, call: Call) -> dict[str, Any]:
        identifier = uuid.uuid4().hex[:24]
        item: dict[str, Any] = self.create_function_call_item(
            f"fc_{identifier}", f"call_{identifier}", call.name, call.arguments_text
        )
        return item


def _given(tools: Sequence[object], text: str) -> tuple[str, tuple[Call, ...]]:
    """Return words and calls of an answer; where no tool is shown, all of it is words."""
    return given_back(text) if tools else (text, ())


mlflow.models.set_model(Agent())
