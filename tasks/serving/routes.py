"""The HTTP side of the server: FastAPI routes over the versions that answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tasks.feedback.exchanges import Exchange, Feedback, ShownPassage
from tasks.retrieval.filters import Where
from tasks.serving.exchange_log import ExchangeLog
from tasks.serving.openai_api import ChatRequest, Completion, RequestError, error_body, refusal
from tasks.serving.protocol import ServeVersion
from tasks.serving.requests import AnswerRequest, Begun, Event, Reply, TextDelta
from tasks.serving.versions import NotLoadedError, Versions
from tasks.stage.errors import NightloomError

# How often a request looks whether its client is still there.
_LOOK_SECONDS = 1.0


class _Asked:
    """A request's question on its way, as the event loop sees it."""

    def __init__(self, versions: Versions, body: ChatRequest) -> None:
        name, turns = body.served_name(list(versions.models)), body.turns()
        where = Where.parse(body.where) if body.where else None
        self.turns, self.received = turns, datetime.now(UTC)
        loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

        def listen(event: Event) -> None:
            loop.call_soon_threadsafe(self.events.put_nowait, event)

        self.order: ServeVersion
        self.inquiry: AnswerRequest
        self.order, self.inquiry = versions.ask(
            name, turns, listen, max_new_tokens=body.new_tokens, where=where
        )

    async def next(self, request: Request) -> Begun | TextDelta | Reply:
        """Return the next event; an error is raised.

        Raises:
            RequestError: the question could not be answered, or nobody waits for it.
        """
        while True:
            try:
                event = await asyncio.wait_for(self.events.get(), _LOOK_SECONDS)
            except TimeoutError:
                if await request.is_disconnected():
                    self.inquiry.leave()
                    raise RequestError("the client has gone", status=499) from None
                continue
            if isinstance(event, Exception):
                raise refusal(event)
            return event

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


def make_app(versions: Versions, log: ExchangeLog, hosts: Sequence[str]) -> FastAPI:
    """Return the application; requests that name another host than one of `hosts` are refused.

    `log` is given whole answers, and what is said of them.
    """
    app = FastAPI(title="Nightloom", docs_url=None, redoc_url=None, openapi_url=None)
    # A page of another site, whose name was made to mean this machine, must not reach the server.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    _tell_errors(app)

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, request: Request) -> Response:
        return await _complete(versions, log, body, request)

    @app.post("/v1/feedback")
    async def feedback(body: Feedback) -> dict[str, str]:
        return await _mark(log, body)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": _listed(versions)}

    @app.get("/health")
    async def health() -> Response:
        found = versions.health() | {"log": log.health()}
        return JSONResponse(found, status_code=200 if found["status"] == "ok" else 503)

    return app


async def _complete(
    versions: Versions, log: ExchangeLog, body: ChatRequest, request: Request
) -> Response:
    """Return the answer, whole or as a stream.

    Raises:
        RequestError: the question could not be answered, or nobody waits for it.
    """
    try:
        asked = _Asked(versions, body)
    except NotLoadedError as error:
        raise RequestError(str(error), status=503, code="model_loading") from None
    except NightloomError as error:
        raise refusal(error) from None
    completion = Completion(asked.order)
    if body.stream:
        # Its beginning is waited for: what is refused until then has a status of its own.
        begun = await asked.next(request)
        assert isinstance(begun, Begun)
        events = _stream(asked, log, completion, begun, request, usage=body.tells_usage)
        return StreamingResponse(events, media_type="text/event-stream")
    while not isinstance(event := await asked.next(request), Reply):
        pass
    if log.is_on:
        log.offer(asked.exchange(completion.id, event))
    return JSONResponse(completion.whole(event))


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
    found = [(model, versions.serving_since(model)) for model in versions.models]
    return [
        {
            "id": f"nightloom-{model}",
            "object": "model",
            "created": int(served[1].timestamp()),
            "owned_by": "nightloom",
            "version": served[0].version,
            "alias": served[0].alias,
        }
        for model, served in found
        if served is not None
    ]


async def _stream(
    asked: _Asked,
    log: ExchangeLog,
    completion: Completion,
    begun: Begun,
    request: Request,
    *,
    usage: bool,
) -> AsyncIterator[str]:
    """Yield the answer as server-sent events."""
    try:
        yield _sent(completion.begin(begun))
        while not isinstance(event := await asked.next(request), Reply):
            assert isinstance(event, TextDelta)
            yield _sent(completion.piece(event.text))
        if log.is_on:
            log.offer(asked.exchange(completion.id, event))
        yield _sent(completion.end(event))
        if usage:
            yield _sent(completion.usage(event))
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
        return JSONResponse(error.body, status_code=error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        unknown = first["type"] == "extra_forbidden"
        message = (
            f"{place} is not a parameter that this server knows"
            if unknown
            else f"{place or 'the body'}: {first['msg'].lower()}"
        )
        code = "unknown_parameter" if unknown else None
        return JSONResponse(error_body(message, param=place or None, code=code), status_code=400)

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        body = error_body(message, status=error.status_code)
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)
