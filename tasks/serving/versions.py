"""The versions that a server answers with: loaded beside the old one, swapped at once, let go."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from tasks.records.schema import Message, ServedModel
from tasks.serving.memory_budget import MemoryBudget
from tasks.serving.protocol import NotServing, ServeVersion, Serving
from tasks.serving.requests import UntrainedError
from tasks.stage.errors import ConfigError, NightloomError

if TYPE_CHECKING:
    from tasks.answering.pipeline import Answerer
    from tasks.retrieval.filters import Where
    from tasks.serving.batcher import Batcher
    from tasks.serving.requests import AnswerRequest, EmbeddingRequest, Listener

LOGGER = logging.getLogger(__name__)


class Load(Protocol):
    """Loads what an order names."""

    def __call__(self, order: ServeVersion, *, beside: bool) -> "Answerer":
        """Return the answerer; `beside` says that another version answers while it is made."""
        ...


class NotLoadedError(ConfigError):
    """The model that was asked is not served, or not yet."""


@dataclass(frozen=True)
class Served:
    """A version that answers, the alias by which it was chosen, and since when."""

    order: ServeVersion
    engine: "Batcher"
    since: datetime


@dataclass
class _ModelState:
    """What is known of one model: what answers, what loads, and what could not be loaded."""

    served: Served | None = None
    loading: int | None = None
    failed: NotServing | None = None


@dataclass
class Versions:
    """One version a model; `load` makes an answerer of an order, maybe beside one that answers.

    All share one `budget` of memory for what they are asked.

    `install` is called from one thread, `ask` and `health` from any.
    """

    models: Sequence[ServedModel]
    load: "Load"
    budget: MemoryBudget
    registry_error: str | None = None
    _states: dict[ServedModel, _ModelState] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._states = {model: _ModelState() for model in self.models}

    def ask(
        self,
        model: ServedModel,
        turns: Sequence[Message],
        listener: "Listener",
        *,
        max_new_tokens: int | None = None,
        where: "Where | None" = None,
        stops: Sequence[str] = (),
        begins: str = "",
        needs_tools: bool = False,
    ) -> "tuple[ServeVersion, AnswerRequest]":
        """Return the version that answers, all of it, and the inquiry.

        Raises:
            NotLoadedError: no version of the model is loaded.
            UntrainedError: it calls no tools, and the conversation needs that.
        """
        with self._lock:  # between looking and asking, no other version takes the state
            served = self._served(model)
            if needs_tools and not served.engine.calls_tools:
                raise UntrainedError(
                    f"version {served.order.version} of the {model} was not trained to call tools",
                    "ask without tools",
                )
            inquiry = served.engine.ask(
                turns, listener, max_new_tokens=max_new_tokens, where=where, stops=stops,
                begins=begins,
            )  # fmt: skip
            return served.order, inquiry

    def calls_tools(self, model: ServedModel) -> bool:
        """Return whether the version that answers was trained to call tools.

        Raises:
            NotLoadedError: no version of the model is loaded.
        """
        return bool(self._served(model).engine.calls_tools)

    def embed(
        self,
        model: ServedModel,
        texts: Sequence[str],
        listener: "Listener",
        *,
        dimensions: int | None = None,
        truncates: bool = False,
    ) -> "tuple[ServeVersion, EmbeddingRequest]":
        """Return the version whose embedder embeds the texts, and the request.

        Raises:
            NotLoadedError: no version of the model is loaded.
            DimensionsError: its embedder makes no vectors of so many numbers.
        """
        with self._lock:
            served = self._served(model)
            request = served.engine.embed(
                texts, listener, dimensions=dimensions, truncates=truncates
            )
            return served.order, request

    def _served(self, model: ServedModel) -> Served:
        served = self._states[model].served
        if served is None:
            raise NotLoadedError(f"no version of the {model} is loaded yet", "ask again soon")
        return served

    def serving_since(self, model: ServedModel) -> tuple[ServeVersion, datetime] | None:
        """Return the version that answers new questions and since when, if one is loaded."""
        served = self._states[model].served
        return None if served is None else (served.order, served.since)

    def install(self, order: ServeVersion) -> Serving | NotServing:
        """Return what came of an order. The old version serves until the new one can, and on if it
        can't.

        Questions that the old one has begun with are answered by it; then its memory is given back.
        """
        state, started = self._states[order.model], time.perf_counter()
        before = state.served
        if before is not None and before.order.version == order.version:
            state.served = Served(order, before.engine, before.since)
            state.failed = None
            return Serving(model=order.model, version=order.version, alias=order.alias, seconds=0.0)
        state.loading = order.version
        try:
            engine = self._start(order, beside=before is not None)
        except Exception as error:
            if not isinstance(error, NightloomError):
                LOGGER.exception("version %d was not foreseen to fail", order.version)
            state.failed = _not_serving(order, before, error)
            return state.failed
        finally:
            state.loading = None
        with self._lock:
            state.served = Served(order, engine, datetime.now(UTC))
            state.failed = None
        seconds = time.perf_counter() - started
        if before is not None:
            before.engine.close()
            before.engine.join()
            before = None  # so that what it held can be given back
            _release_memory()
        return Serving(model=order.model, version=order.version, alias=order.alias, seconds=seconds)

    def _start(self, order: ServeVersion, *, beside: bool) -> "Batcher":
        answerer = self.load(order, beside=beside)
        # Deferred: torch takes seconds to import, and the server is to tell its health meanwhile.
        from tasks.serving.batcher import Batcher

        return Batcher(answerer, self.budget)

    def health(self) -> dict[str, object]:
        """Return what `/health` tells, by model and of the registry."""
        return {
            "status": "ok" if all(state.served for state in self._states.values()) else "loading",
            "models": {model: _health_of(state) for model, state in self._states.items()},
            "registry": {"error": self.registry_error},
        }


def _not_serving(order: ServeVersion, before: Served | None, error: Exception) -> NotServing:
    still = None if before is None else before.order.version
    text = f"{type(error).__name__}: {error}"
    return NotServing(model=order.model, version=order.version, still=still, error=text)


def _release_memory() -> None:
    from tasks.models.memory import release_memory

    release_memory()


def _health_of(state: _ModelState) -> dict[str, object]:
    served, failed = state.served, state.failed
    return {
        "version": None if served is None else served.order.version,
        "alias": None if served is None else served.order.alias,
        "since": None if served is None else served.since.isoformat(timespec="seconds"),
        "in_flight": 0 if served is None else served.engine.in_flight,
        "loading": state.loading,
        "failed": None if failed is None else {"version": failed.version, "error": failed.error},
    }
