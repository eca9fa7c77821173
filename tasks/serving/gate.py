"""What every request passes first: who may ask, how much may be sent, how many are in flight."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.feedback.params import RequestParams
from tasks.serving.access import Access
from tasks.serving.metrics import Metrics
from tasks.serving.openai_api import RequestError, refusal

LOGGER = logging.getLogger(__name__)
# A client that does not read its answer is cut off so long after its time is up.
_CUT_SECONDS = 5.0
_RECENT = 32
_LONGEST_RETRY_SECONDS = 60


class Queue:
    """How many requests are in flight, and when there may be room for one more."""

    def __init__(self, most: int) -> None:
        self.in_flight = 0
        self._most = most
        self._took: deque[float] = deque(maxlen=_RECENT)

    @property
    def is_full(self) -> bool:
        """Return whether no more requests are taken."""
        return self.in_flight >= self._most

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while the block lasts.

        Raises:
            RequestError: none is free; it says when to try again.
        """
        if self.is_full:
            raise RequestError(
                f"{self.in_flight} requests are being answered or wait, and no more are taken "
                "(requests.in_flight)",
                status=429,
                code="rate_limit_exceeded",
                retry_after=self.retry_seconds,
            )
        self.in_flight += 1
        begun = time.monotonic()
        try:
            yield
        finally:
            self.in_flight -= 1
            self._took.append(time.monotonic() - begun)

    @property
    def retry_seconds(self) -> int:
        """Return when to try again: after as long as the last requests took, 1 to 60 seconds."""
        mean = sum(self._took) / len(self._took) if self._took else 1.0
        return min(_LONGEST_RETRY_SECONDS, max(1, math.ceil(mean)))


class Gate:
    """ASGI middleware; what it refuses reaches no route, and its body is not kept."""

    def __init__(
        self, app: ASGIApp, access: Access, bounds: RequestParams, queue: Queue, metrics: Metrics
    ) -> None:
        self._app = app
        self._access = access
        self._bounds = bounds
        self._queue = queue
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        begun, statuses = time.perf_counter(), list[int]()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        try:
            self._check(scope)
            if scope["method"] in ("GET", "HEAD"):
                await self._answer_in_time(scope, receive, observed)
            else:
                with self._queue.place():
                    await self._answer_in_time(scope, receive, observed)
        except RequestError as error:
            if statuses:  # an answer has begun and can't be taken back: its connection is ended
                return
            await error.response()(scope, receive, observed)
        except Exception as error:
            if statuses:
                raise
            LOGGER.exception("%s %s was not foreseen to fail", scope["method"], scope["path"])
            await refusal(error).response()(scope, receive, observed)
        finally:
            status = statuses[0] if statuses else 499
            self._metrics.count(_route(scope), status, time.perf_counter() - begun)

    def _check(self, scope: Scope) -> None:
        """Refuse strangers, and heads and bodies that are too large.

        Raises:
            RequestError: with the reason.
        """
        if _head_bytes(scope) > self._bounds.head_kilobytes * 1024:
            raise too_long_head(self._bounds)
        denied, state = self._access.denial(scope), scope.setdefault("state", {})
        if denied is not None:
            state["is_stranger"] = True
            raise RequestError(denied.message, status=denied.status, code=denied.code)
        state["has_key"] = self._access.knows(scope)
        state["deadline"] = time.monotonic() + self._bounds.answer_seconds
        check_length(_content_length(scope), self._bounds)

    async def _answer_in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the routes answer; end an answer that takes longer, for whatever reason.

        Raises:
            RequestError: it took longer.
        """
        try:
            async with asyncio.timeout(self._bounds.answer_seconds + _CUT_SECONDS):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise too_late(self._bounds) from None


def too_long_head(bounds: RequestParams) -> RequestError:
    """Return what is told where the request line and headers are longer than they may be."""
    return RequestError(
        f"the request line and headers have more than {bounds.head_kilobytes} kilobytes "
        "(requests.head_kilobytes)",
        status=431,
        code="request_too_large",
    )


def check_length(body_bytes: int, bounds: RequestParams) -> None:
    """Refuse a body that is larger than it may be.

    Raises:
        RequestError: it is.
    """
    if body_bytes > bounds.body_kilobytes * 1024:
        raise RequestError(
            f"the body has more than {bounds.body_kilobytes} kilobytes, the most that is read "
            "(requests.body_kilobytes)",
            status=413,
            code="request_too_large",
        )


def too_late(bounds: RequestParams) -> RequestError:
    """Return what is told where an answer takes longer than it may."""
    return RequestError(
        f"there was no answer in {bounds.answer_seconds:g} seconds (requests.answer_seconds)",
        status=503,
        code="answer_timeout",
        retry_after=_LONGEST_RETRY_SECONDS,
    )


def _head_bytes(scope: Scope) -> int:
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    return headers + len(scope.get("raw_path") or b"") + len(scope["query_string"])


def _content_length(scope: Scope) -> int:
    """Return how many bytes a request says that its body has; the HTTP parser has checked it."""
    return max(
        (int(value) for name, value in scope["headers"] if name == b"content-length"), default=0
    )


def _route(scope: Scope) -> str:
    """Return the route's path as it is declared; a stranger's own paths name nothing."""
    route: Any = scope.get("route")
    return getattr(route, "path", "other")
