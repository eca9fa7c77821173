"""The HTTP side of the server: FastAPI routes over the versions that answer."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, get_args

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from tasks.feedback.exchanges import Exchange, Feedback, ShownPassage
from tasks.feedback.params import RequestParams
from tasks.records.schema import ServedModel
from tasks.retrieval.filters import Where
from tasks.serving.access import Access
from tasks.serving.bodies import documented, read_body
from tasks.serving.chat_request import ChatRequest
from tasks.serving.embeddings_api import EmbeddingsBody, embeddings_json
from tasks.serving.exchange_log import ExchangeLog
from tasks.serving.gate import Gate, Queue, too_late
from tasks.serving.metrics import MEDIA_TYPE, Metrics
from tasks.serving.openai_api import (
    Completion,
    RequestError,
    error_body,
    ignored_header,
    model_object,
    not_loaded,
    refusal,
    served_name,
)
from tasks.serving.protocol import ServeVersion
from tasks.serving.requests import AnswerRequest, Begun, Embedded, Event, Reply, TextDelta
from tasks.serving.tool_calls import WordStream, message_fields
from tasks.serving.tool_request import NO_TOOLS
from tasks.serving.versions import NotLoadedError, Versions
from tasks.stage.errors import NightloomError

# How often a request looks whether its client is still there.
_LOOK_SECONDS = 1.0
_EXAMPLES = [f"nightloom-{model}" for model in get_args(ServedModel)]


class Events:
    """What an engine tells of a request, as the event loop sees it."""

    def __init__(self, bounds: RequestParams) -> None:
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def listen(self, event: Event) -> None:
        """Take an event in; from any thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next(self, request: Request) -> Begun | TextDelta | Reply | Embedded:
        """Return the next event; an error is raised.

        Raises:
            RequestError: the engine could not do what was asked, or not in time, or nobody waits
                for it.
        """
        while True:
            left = request.state.deadline - time.monotonic()
            if left <= 0:
                raise too_late(self._bounds)
            try:
                event = await asyncio.wait_for(self._queue.get(), min(left, _LOOK_SECONDS))
            except TimeoutError:
                if await request.is_disconnected():
                    raise RequestError("the client has gone", status=499) from None
                continue
            if isinstance(event, Exception):
                raise refusal(event)
            return event


class _Asked:
    """A request's question on its way, as the event loop sees it."""

    def __init__(self, service: "Service", body: ChatRequest) -> None:
        versions = service.versions
        name = body.served_name(list(versions.models))
        calls = body.needs_tools and versions.calls_tools(name)
        choice = body.tool_choice() if calls else None
        turns = body.turns(service.bounds.characters, choice)
        self.choice = choice or NO_TOOLS
        where = Where.parse(body.where) if body.where else None
        self.turns, self.received = turns, datetime.now(UTC)
        self.events = Events(service.bounds)
        self.order: ServeVersion
        self.inquiry: AnswerRequest
        self.order, self.inquiry = versions.ask(
            name, turns, self.events.listen, max_new_tokens=body.new_tokens, where=where,
            stops=(*body.stops, *self.choice.stops), begins=self.choice.begins, needs_tools=calls,
        )  # fmt: skip

    async def next(self, request: Request) -> Begun | TextDelta | Reply:
        """Return the next event; an error is raised.

        Raises:
            RequestError: the question could not be answered, or not in time, or nobody waits for
                it.
        """
        event = await self.events.next(request)
        assert not isinstance(event, Embedded)
        if isinstance(event, Reply) and self.choice.begins:
            return replace(event, text=self.choice.begins + event.text)
        return event

    def given(self, reply: Reply) -> dict[str, Any] | None:
        """Return what a message holds of a whole answer, None where that is all of its text."""
        if not self.choice.may_call:
            return None
        return message_fields(reply.text, self.choice.at_most)

    def exchange(self, completion: str, reply: Reply) -> Exchange:
        """Return the question with its answer, to be kept."""
        shown = reply.begun.passages
        return Exchange(
            completion=completion,
            model=self.order.model,
            version=self.order.version,
            alias=self.order.alias,
            turns=tuple((turn.role, turn.content) for turn in self.turns),
            passages=tuple(
                ShownPassage(id=used.passage.id, text=used.passage.shown, score=used.score)
                for used in shown
            ),
            answer=reply.text,
            is_cut=reply.is_cut,
            asked=self.received,
            seconds=reply.latency_ms / 1000,
        )


@dataclass(frozen=True)
class Service:
    """What the routes answer from, and the bounds of what they take.

    `log` is given whole answers, and what is said of them.
    """

    versions: Versions
    log: ExchangeLog
    bounds: RequestParams


def make_app(service: Service, access: Access) -> FastAPI:
    """Return the application; whom `access` does not let in, reaches none of its routes."""
    app = FastAPI(title="Nightloom", docs_url=None, redoc_url=None)
    queue, metrics = Queue(service.bounds.in_flight), Metrics()
    metrics.watch(service.versions, service.log)
    app.add_middleware(Gate, access=access, bounds=service.bounds, queue=queue, metrics=metrics)
    _tell_errors(app)
    _add_answering(app, service, metrics)
    _add_watching(app, service, queue, metrics)
    return app


def _add_answering(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """Add the routes of OpenAI's API, and feedback."""

    @app.post("/v1/chat/completions", openapi_extra=documented(ChatRequest))
    async def complete(request: Request) -> Response:
        body = await read_body(request, ChatRequest, service.bounds)
        return await _complete(service, metrics, body, request)

    @app.post("/v1/feedback", openapi_extra=documented(Feedback))
    async def feedback(request: Request) -> dict[str, str]:
        body = await read_body(request, Feedback, service.bounds)
        return await _mark(service.log, body)

    @app.post("/v1/embeddings", openapi_extra=documented(EmbeddingsBody))
    async def embed(request: Request) -> Response:
        body = await read_body(request, EmbeddingsBody, service.bounds)
        return await _embed(service, metrics, body, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": _listed(service.versions)}

    @app.get("/v1/models/{model}")
    async def model(model: Annotated[str, Path(examples=_EXAMPLES)]) -> dict[str, Any]:
        name = served_name(model, service.versions.models)
        found = service.versions.serving_since(name)
        if found is None:
            raise not_loaded(f"no version of the {name} is loaded yet")
        return model_object(*found)


def _add_watching(app: FastAPI, service: Service, queue: Queue, metrics: Metrics) -> None:
    """Add what load balancers and monitoring ask."""

    @app.get("/health")
    async def health(request: Request) -> Response:
        found = service.versions.health()
        status = 200 if found["status"] == "ok" else 503
        if not request.state.has_key:  # a stranger learns whether it answers, and no more
            return JSONResponse({"status": found["status"]}, status_code=status)
        return JSONResponse(found | {"log": service.log.health()}, status_code=status)

    @app.get("/ready")
    async def ready() -> Response:
        status = str(service.versions.health()["status"])
        if status == "ok" and queue.is_full:
            status = "full"
        return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)

    @app.get("/metrics")
    async def tell_metrics() -> Response:
        return Response(metrics.text(), media_type=MEDIA_TYPE)


async def _complete(
    service: Service, metrics: Metrics, body: ChatRequest, request: Request
) -> Response:
    """Return the answer, whole or as a stream.

    Raises:
        RequestError: the question could not be answered, or nobody waits for it.
    """
    try:
        asked = _Asked(service, body)
    except NotLoadedError as error:
        raise not_loaded(str(error)) from None
    except NightloomError as error:
        raise refusal(error) from None
    completion = Completion(asked.order, tells_usage=body.tells_usage)
    headers = ignored_header(body.ignored())

    def answered(reply: Reply) -> None:
        metrics.count_answer(asked.order.model, reply)
        if service.log.is_on:
            service.log.offer(asked.exchange(completion.id, reply))

    try:
        # A stream's beginning is waited for: what is refused until then has a status of its own.
        event = await asked.next(request)
        if body.stream:
            assert isinstance(event, Begun)
            events = _stream(asked, answered, completion, event, request)
            return StreamingResponse(events, headers=headers, media_type="text/event-stream")
        while not isinstance(event, Reply):
            event = await asked.next(request)
    except BaseException:  # also where the gate ends what takes too long
        asked.inquiry.leave()
        raise
    answered(event)
    return JSONResponse(completion.whole(event, asked.given(event)), headers=headers)


async def _embed(
    service: Service, metrics: Metrics, body: EmbeddingsBody, request: Request
) -> Response:
    """Return the vectors of texts.

    Raises:
        RequestError: they could not be embedded, or nobody waits for them.
    """
    name, texts = body.served_name(list(service.versions.models)), body.texts(service.bounds)
    events = Events(service.bounds)
    try:
        order, asked = service.versions.embed(
            name, texts, events.listen, dimensions=body.dimensions, truncates=bool(body.truncate)
        )
    except NotLoadedError as error:
        raise not_loaded(str(error)) from None
    except NightloomError as error:
        raise refusal(error) from None
    try:
        event = await events.next(request)
    finally:
        asked.leave()  # where the client has gone; what is done stays so
    assert isinstance(event, Embedded)
    metrics.count_embedded(order.model, event.tokens)
    content = await asyncio.to_thread(embeddings_json, order, event, body.encoding_format)
    headers = ignored_header(body.ignored())
    return Response(content, headers=headers, media_type="application/json")


async def _mark(log: ExchangeLog, feedback: Feedback) -> dict[str, str]:
    """Keep feedback on an answer.

    Raises:
        RequestError: nothing is kept here, no such answer is, or it could not be kept.
    """
    if not log.is_on:
        raise RequestError(
            "this server keeps no answers, so none can be marked; `nightloom serve --log` does",
            status=409,
            code="log_is_off",
        )
    found = await log.give(feedback)
    if found.outcome == "unknown":
        raise RequestError(
            f"no answer {feedback.completion} is kept: it is too old, was dropped, or is on its "
            "way; ask again in a minute",
            param="completion",
            status=404,
            code="completion_not_found",
        )
    if found.outcome == "left_out":
        raise RequestError(f"not kept: {found.error}", status=422, code="personal_data")
    if found.outcome == "failed":
        raise RequestError(f"not kept: {found.error}", status=503, code="log_failed")
    return {"object": "feedback", "completion": feedback.completion}


def _listed(versions: Versions) -> list[dict[str, Any]]:
    """Return the models that answer, in OpenAI's shape."""
    found = [versions.serving_since(model) for model in versions.models]
    return [model_object(*served) for served in found if served is not None]


async def _stream(
    asked: _Asked,
    answered: Callable[[Reply], None],
    completion: Completion,
    begun: Begun,
    request: Request,
) -> AsyncIterator[str]:
    """Yield the answer as server-sent events."""
    words = WordStream(asked.choice.begins, asked.choice.at_most)
    may_call, calls = asked.choice.may_call, list[dict[str, Any]]()
    try:
        yield _sent(completion.begin(begun))
        while not isinstance(event := await asked.next(request), Reply):
            assert isinstance(event, TextDelta)
            piece = words.feed(event.text) if may_call else event.text
            if piece:
                yield _sent(completion.piece(piece))
        answered(event)
        if may_call:
            rest, calls = words.rest(event.text)
            for chunk in [completion.piece(rest)] * bool(rest) + completion.calls(calls):
                yield _sent(chunk)
        for chunk in completion.end(event, calls=bool(calls)):
            yield _sent(chunk)
        yield "data: [DONE]\n\n"
    except RequestError as error:
        yield _sent(error.body)
    finally:
        asked.inquiry.leave()  # where the client has gone; an answer that is whole stays so


def _sent(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _tell_errors(app: FastAPI) -> None:
    """Let every error have OpenAI's shape."""

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        body = error_body(message, status=error.status_code)
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return RequestError(str(error.errors()[0]["msg"]), status=422).response()
