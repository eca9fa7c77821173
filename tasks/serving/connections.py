"""Connections: uvicorn's HTTP/1.1, bounded where uvicorn waits for ever or takes any number."""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle

from tasks.feedback.params import RequestParams
from tasks.serving.gate import too_long_head
from tasks.serving.openai_api import RequestError

_TOO_LARGE = 431
# After its time is up, an answer that its client does not read is ended so much later.
_CUT_SECONDS = 10.0


class BoundedConnection(H11Protocol):
    """One client's connection.

    Uvicorn bounds an idle connection alone. Here a request's head, and a body that nobody reads any
    more, must also come in time, and an answer be read; a stranger's connection is soon closed; and
    there are so many at most: for a new one the oldest idle one is closed, a stranger's first.
    """

    BOUNDS: ClassVar[RequestParams]

    _late: asyncio.TimerHandle | None = None
    _watched: RequestResponseCycle | None = None
    _since = 0.0
    _had_key = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if there is room for it."""
        super().connection_made(transport)
        self._since = time.monotonic()
        if len(self.connections) > self.BOUNDS.connections and not self._make_room():
            self._refuse(
                RequestError(
                    f"{self.BOUNDS.connections} connections are open, all of them in use "
                    "(requests.connections)",
                    status=503,
                    code="too_many_connections",
                    retry_after=1,
                )
            )
            return
        self._wait_for_head()

    def _make_room(self) -> bool:
        """Close the connection that is idle for longest; return whether one is."""
        idle = [
            other
            for other in self.connections
            if isinstance(other, BoundedConnection) and other is not self and not other.is_answering
        ]
        if not idle:
            return False
        oldest = min(idle, key=lambda other: (other._had_key, other._since))
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    @property
    def is_answering(self) -> bool:
        """Return whether a request is being read or answered."""
        is_over = self.cycle is None or self.cycle.response_complete
        return not is_over and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; those of a head that is not whole yet don't buy more time."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self._since = time.monotonic()
        self._stop_waiting()
        state = self.scope["state"]
        self._had_key = self._had_key or state.get("has_key", False)
        super().on_response_complete()
        body_is_whole = self.conn.their_state in (h11.IDLE, h11.DONE)
        if self.is_answering or state.get("is_stranger", False) or not body_is_whole:
            self._watch()

    def _watch(self) -> None:
        """Bound what the connection does now: an answer as a whole, or a wait for its client."""
        if self.is_answering:
            if self._watched is not self.cycle:
                self._watched = self.cycle
                self._limit(self.BOUNDS.answer_seconds + _CUT_SECONDS, self.transport.abort)
        elif self._late is None and not self.transport.is_closing():
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Tell in OpenAI's form what is wrong with a request that is not HTTP, or too long."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == _TOO_LARGE:
            self._refuse(too_long_head(self.BOUNDS))
        else:
            self._refuse(RequestError(msg))

    def _wait_for_head(self) -> None:
        self._limit(self.BOUNDS.read_seconds, self._end_waiting)

    def _limit(self, seconds: float, end: Callable[[], None]) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(seconds, end)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end_waiting(self) -> None:
        if self.is_answering or self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(
                RequestError(
                    f"no request came in {self.BOUNDS.read_seconds:g} seconds "
                    "(requests.read_seconds)",
                    status=408,
                    code="request_timeout",
                )
            )
        else:
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        """Send an error and end the connection."""
        answer = error.response()
        headers = [*answer.raw_headers, (b"connection", b"close")]
        reason = STATUS_PHRASES[error.status]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=error.status, headers=headers, reason=reason),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def bounded_connections(bounds: RequestParams) -> type[H11Protocol]:
    """Return the class of connections with these bounds, for uvicorn's `http` setting."""
    return type("_Connection", (BoundedConnection,), {"BOUNDS": bounds})
