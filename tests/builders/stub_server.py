"""The server's routes, gate and connections in this process, before an engine that is no model."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tasks.feedback.params import RequestParams
from tasks.records.schema import Message
from tasks.retrieval.filters import Where
from tasks.serving.access import Access, Protection
from tasks.serving.exchange_log import ExchangeLog
from tasks.serving.memory_budget import MemoryBudget
from tasks.serving.protocol import ServeVersion
from tasks.serving.requests import (
    AnswerRequest,
    Begun,
    Embedded,
    EmbeddingRequest,
    Listener,
    Reply,
    TextDelta,
)
from tasks.serving.routes import Service
from tasks.serving.server import address_of, bind, make_server
from tasks.serving.versions import Served, Versions
from tests.builders.model_server import BEARER, KEY, QUESTION

CHAT = "/v1/chat/completions"


@dataclass
class StubEngine:
    """Answers `yes` at once, in so many pieces, and texts with the vector (length, 0.5); or never,
    where it is told to.
    """

    answers: bool = True
    pieces: int = 1
    text: str = "yes"
    calls_tools: bool = False
    asked: list[AnswerRequest] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        return 0

    def ask(
        self,
        turns: Sequence[Message],
        listener: Listener,
        *,
        max_new_tokens: int | None = None,
        where: Where | None = None,
        stops: Sequence[str] = (),
        begins: str = "",
    ) -> AnswerRequest:
        request = AnswerRequest(turns, listener, max_new_tokens or 8, where, stops, begins)
        self.asked.append(request)
        if self.answers:
            begun = Begun((), "0" * 64, 3)
            listener(begun)
            for _ in range(self.pieces):
                listener(TextDelta(self.text))
            listener(Reply(begun, self.text * self.pieces, (1,), False, 1.0, 2.0))
        return request

    def embed(
        self,
        texts: Sequence[str],
        listener: Listener,
        *,
        dimensions: int | None = None,
        truncates: bool = False,
    ) -> EmbeddingRequest:
        request = EmbeddingRequest(texts, listener, truncates)
        vectors = np.array([(len(text), 0.5) for text in texts], dtype=np.float32)
        listener(Embedded(vectors, 3 * len(texts), 0, "0" * 64, 256))
        return request


@dataclass
class StubServer:
    """Where it listens, what answers, and the connections that are open."""

    address: str
    engine: StubEngine
    client: httpx.Client
    connections: Collection[object]

    def post(self, **body: Any) -> httpx.Response:
        content = {"model": "adapter", "messages": [{"role": "user", "content": QUESTION}]} | body
        return self.client.post(CHAT, json=content)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)


def stub_service(folder: Path, bounds: RequestParams, engine: StubEngine) -> Service:
    """What the routes answer from."""

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError

    versions = Versions(["adapter"], load, MemoryBudget.of(bounds))
    order = ServeVersion(model="adapter", version=1, alias="production", bundle="none")
    versions._states["adapter"].served = Served(order, engine, datetime.now(UTC))  # type: ignore[arg-type]
    return Service(versions, ExchangeLog(folder), bounds)


@contextmanager
def stub_server(
    folder: Path,
    bounds: RequestParams,
    *,
    access: Access = Access(KEY),  # noqa: B008  it can't change
    host: str = "127.0.0.1",
    protection: Protection = Protection(True),  # noqa: B008
) -> Iterator[StubServer]:
    """A server that answers while the block lasts."""
    engine = StubEngine()
    server = make_server(stub_service(folder, bounds, engine), access, protection)
    bound = bind(host, 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    address = address_of(bound, protection)
    try:
        with httpx.Client(
            base_url=address, headers=BEARER, timeout=60, trust_env=False, verify=False
        ) as client:
            yield StubServer(address, engine, client, server.server_state.connections)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
