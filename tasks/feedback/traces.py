"""Served questions as MLflow traces: written, looked up, marked by people, and deleted again.

A trace's root span has the conversation and the answer, its child the passages. What people say
are MLflow's own assessments, whether they come by the API or from MLflow's review queue:
`correct` (yes or no), `expected_response` (the right answer), `note`. `other_answer` comes from
code: what another version answers.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import mlflow
from mlflow.entities import (
    AssessmentSource,
    AssessmentSourceType,
    Expectation,
    SpanType,
    Trace,
)
from mlflow.entities import (
    Feedback as FeedbackValue,
)
from mlflow.tracing.client import TracingClient
from mlflow.tracking import MlflowClient

from tasks.feedback.exchanges import Exchange, Feedback
from tasks.feedback.params import LogParams
from tasks.feedback.served import ServedQuestion
from tasks.services.stores import (
    SERVED,
    Stores,
    find_experiment,
    open_experiment,
    retrying_client,
)
from tasks.stage.errors import ConfigError

CORRECT = "correct"
EXPECTED = "expected_response"
NOTE = "note"
OTHER_ANSWER = "other_answer"  # what another version answers; its source names the version

_STORE = "MLFLOW_TRACKING_URI"
_COMPLETION = "nightloom.completion"
_VERSION = "nightloom.version"
_ALIAS = "nightloom.alias"
_SIZE = "mlflow.trace.sizeBytes"
_API = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="api")
_PAGE = 500
# What has a place of its own in a span: MLflow's page shows it there.
_ELSEWHERE = {"turns", "answer", "passages"}
_REST = "nightloom"
_MEGABYTE = 1 << 20


def use_store(uri: str) -> None:
    """Let MLflow's functions of this process use a store.

    MLflow also writes it into the environment, where it would count as the user's own choice.
    """
    before = os.environ.get(_STORE)
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop(_STORE, None)
    else:
        os.environ[_STORE] = before


class ServedTraces:
    """The traces of one MLflow store."""

    def __init__(self, stores: Stores, *, retry_seconds: float | None = None) -> None:
        """Open the store; a call waits `retry_seconds` for one that is away.

        Raises:
            ConfigError: it was away for too long.
        """
        # Spans are exported to the store that the process has set, whatever client began them.
        use_store(stores.tracking_uri)
        self._stores = stores
        uri = stores.tracking_uri
        self._client = retrying_client(MlflowClient, uri, seconds=retry_seconds)
        self._tracing = retrying_client(TracingClient, uri, seconds=retry_seconds)
        found = find_experiment(self._client, SERVED)
        self._experiment: str | None = None if found is None else str(found.experiment_id)

    def write(self, exchange: Exchange) -> None:
        """Keep an exchange.

        Raises:
            ConfigError: the store did not take it.
        """
        if self._experiment is None:
            self._experiment = open_experiment(self._client, SERVED, self._stores.location)
        begun = int(exchange.asked.timestamp() * 1e9)
        root = self._client.start_trace(
            f"nightloom-{exchange.model}",
            span_type=SpanType.CHAT_MODEL,
            inputs={"messages": [{"role": role, "content": text} for role, text in exchange.turns]},
            attributes={_REST: exchange.model_dump_json(exclude=_ELSEWHERE)},
            tags={
                _COMPLETION: exchange.completion,
                _VERSION: f"{exchange.model}-{exchange.version}",
                _ALIAS: exchange.alias,
            },
            experiment_id=self._experiment,
            start_time_ns=begun,
        )
        span = self._client.start_span(
            "retrieve",
            root.trace_id,
            root.span_id,
            span_type=SpanType.RETRIEVER,
            inputs={"query": exchange.question},
            start_time_ns=begun,
        )
        found = [
            {"page_content": passage.text, "metadata": {"id": passage.id, "score": passage.score}}
            for passage in exchange.passages
        ]
        self._client.end_span(root.trace_id, span.span_id, outputs=found)
        self._client.end_trace(
            root.trace_id,
            outputs={"choices": [{"message": {"role": "assistant", "content": exchange.answer}}]},
            end_time_ns=begun + int(exchange.seconds * 1e9),
        )
        # MLflow's exporter only warns where it fails.
        if self._find(exchange.completion) is None:
            raise ConfigError(
                f"MLflow did not keep the trace of {exchange.completion}",
                "look at the server's log, .nightloom/logs/serve.log",
            )

    def add(self, feedback: Feedback) -> bool:
        """Keep what was said of an answer; return False where no such answer is kept."""
        trace = self._find(feedback.completion)
        if trace is None:
            return False
        said: list[tuple[str, Any, bool]] = []
        if feedback.rating is not None:
            said.append((CORRECT, feedback.rating == "good", False))
        if feedback.answer is not None:
            said.append((EXPECTED, feedback.answer, True))
        if feedback.note is not None:
            said.append((NOTE, feedback.note, False))
        for name, value, is_expectation in said:
            kind = Expectation if is_expectation else FeedbackValue
            self._tracing.log_assessment(
                trace.info.trace_id, kind(name=name, value=value, source=_API)
            )
        return True

    def add_other_answer(self, trace: str, version: str, answer: str) -> None:
        """Keep what another version, named `MODEL-VERSION`, answers to a trace's question."""
        source = AssessmentSource(source_type=AssessmentSourceType.CODE, source_id=version)
        said = FeedbackValue(name=OTHER_ANSWER, value=answer, source=source)
        self._tracing.log_assessment(trace, said)

    def questions(self, since: datetime | None = None) -> Iterator[ServedQuestion]:
        """Yield what is kept, oldest first; from a time on where one is given."""
        condition = None if since is None else f"timestamp_ms >= {int(since.timestamp() * 1000)}"
        for trace in self._search(condition, spans=True):
            yield _question(trace)

    def prune(self, params: LogParams, now: datetime) -> int:
        """Delete what is too old or too much, and return how many traces went."""
        oldest = int((now.astimezone(UTC) - timedelta(days=params.days)).timestamp() * 1000)
        gone: list[str] = []
        kept = 0
        newest_first = reversed(list(self._search(None, spans=False)))
        for trace in newest_first:
            kept += int(trace.info.trace_metadata.get(_SIZE, 0))
            if trace.info.timestamp_ms < oldest or kept > params.megabytes * _MEGABYTE:
                gone.append(trace.info.trace_id)
        return self._delete(gone)

    def delete_where(self, holds: Callable[[str, bytes], bool]) -> int:
        """Delete the traces of which `holds` is true, and return how many.

        It is asked with a trace's completion, and with all that it says as JSON.
        """
        return self._delete(
            [
                trace.info.trace_id
                for trace in self._search(None, spans=True)
                if holds(trace.info.tags.get(_COMPLETION, ""), trace.to_json().encode())
            ]
        )

    def delete_answers(self, since: Mapping[str, datetime]) -> int:
        """Delete what versions, named `MODEL-VERSION`, answered from a time on; return how many."""
        every = self._search(None, spans=False)
        return self._delete([trace.info.trace_id for trace in every if _is_since(trace, since)])

    def _delete(self, traces: list[str]) -> int:
        for start in range(0, len(traces), _PAGE):
            assert self._experiment is not None
            self._client.delete_traces(self._experiment, trace_ids=traces[start : start + _PAGE])
        return len(traces)

    def _find(self, completion: str) -> Trace | None:
        if self._experiment is None:
            return None
        found = self._client.search_traces(
            [self._experiment],
            filter_string=f"tags.`{_COMPLETION}` = '{completion}'",
            max_results=1,
            include_spans=False,
        )
        return found[0] if found else None

    def _search(self, condition: str | None, *, spans: bool) -> Iterator[Trace]:
        token = None
        while self._experiment is not None:  # nothing was ever kept
            page = self._client.search_traces(
                [self._experiment],
                filter_string=condition,
                max_results=_PAGE,
                order_by=["timestamp_ms ASC"],
                page_token=token,
                include_spans=spans,
            )
            yield from page
            token = page.token
            if not token:
                return


def _is_since(trace: Trace, since: Mapping[str, datetime]) -> bool:
    """Return whether a trace has an answer of one of these versions, given after its time."""
    begun = since.get(trace.info.tags.get(_VERSION, ""))
    return begun is not None and trace.info.timestamp_ms >= begun.timestamp() * 1000


def _question(trace: Trace) -> ServedQuestion:
    """Return what a trace tells; of several marks of one kind the last one counts."""
    root, shown = sorted(trace.data.spans, key=lambda span: span.parent_id is not None)
    exchange = Exchange.model_validate(
        root.attributes[_REST]  # MLflow reads JSON back by itself
        | {
            "turns": [(turn["role"], turn["content"]) for turn in root.inputs["messages"]],
            "answer": root.outputs["choices"][0]["message"]["content"],
            "passages": [
                {"text": found["page_content"], **found["metadata"]} for found in shown.outputs
            ],
        }
    )
    said: dict[str, Any] = {}
    others: dict[str, str] = {}
    for mark in sorted(trace.info.assessments, key=lambda mark: mark.last_update_time_ms or 0):
        if not isinstance(mark, FeedbackValue | Expectation):
            continue
        if mark.name == OTHER_ANSWER and mark.source.source_id is not None:
            others[mark.source.source_id] = str(mark.value)
        elif mark.source.source_type == AssessmentSourceType.HUMAN and mark.valid is not False:
            said[mark.name] = mark.value
    return ServedQuestion(
        trace=trace.info.trace_id,
        exchange=exchange,
        correct=said.get(CORRECT),
        expected=said.get(EXPECTED),
        note=said.get(NOTE),
        others=others,
    )
