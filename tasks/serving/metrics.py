"""What `/metrics` tells, in Prometheus' form: requests, answers, tokens, versions, memory."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from tasks.records.schema import ServedModel
from tasks.serving.exchange_log import ExchangeLog
from tasks.serving.versions import Versions

if TYPE_CHECKING:
    from tasks.serving.requests import Reply

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts of one server, in a registry of its own; names begin with `nightloom_`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "nightloom_requests", "Requests by route and HTTP status; 499: the client left.",
            ["route", "status"], registry=self._registry,
        )  # fmt: skip
        self._request_seconds = Histogram(
            "nightloom_request_seconds", "From a request's head to its answer's end.",
            ["route"], buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "nightloom_first_token_seconds", "From a question to its answer's first token.",
            ["model"], buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter(
            "nightloom_tokens", "Tokens of prompts, of answers, and of texts that were embedded.",
            ["model", "kind"], registry=self._registry,
        )  # fmt: skip
        ProcessCollector(registry=self._registry)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def count_answer(self, model: ServedModel, reply: "Reply") -> None:
        """Count an answer."""
        self._first_token.labels(model).observe(reply.first_token_ms / 1000)
        self._tokens.labels(model, "prompt").inc(reply.begun.prompt_tokens)
        self._tokens.labels(model, "answer").inc(len(reply.token_ids))

    def count_embedded(self, model: ServedModel, tokens: int) -> None:
        """Count texts that were embedded."""
        self._tokens.labels(model, "embedded").inc(tokens)

    def watch(self, versions: Versions, log: ExchangeLog) -> None:
        """Tell also what serves and what the log keeps, as it is when it is asked."""
        self._registry.register(_Now(versions, log))

    def text(self) -> bytes:
        """Return everything, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is known only when it is asked."""

    def __init__(self, versions: Versions, log: ExchangeLog) -> None:
        self._versions = versions
        self._log = log

    def collect(self) -> Iterator[Metric]:
        """Yield what serves, what waits in it, and what was kept."""
        found: Any = self._versions.health()
        models = found["models"].items()
        yield _gauge(
            "nightloom_served_version", "The version that answers; 0: none is loaded.",
            "model", ((model, state["version"] or 0) for model, state in models),
        )  # fmt: skip
        yield _gauge(
            "nightloom_questions_in_flight", "Questions that wait or are being answered.",
            "model", ((model, state["in_flight"]) for model, state in models),
        )  # fmt: skip
        yield _gauge(
            "nightloom_version_failed", "1 where the newest version could not be loaded.",
            "model", ((model, int(state["failed"] is not None)) for model, state in models),
        )  # fmt: skip
        yield GaugeMetricFamily(
            "nightloom_registry_away", "1 while the registry can't be asked.",
            value=int(found["registry"]["error"] is not None),
        )  # fmt: skip
        kept: Any = self._log.health() or {}
        yield _gauge(
            "nightloom_log_entries", "Entries of the log since the start, by what became of them.",
            "outcome", ((name, kept[name]) for name in ("kept", "dropped", "left_out") if kept),
        )  # fmt: skip


def _gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family
