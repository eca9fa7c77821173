"""OpenAI's API as this server speaks it: the names of models, answers, and errors."""

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse

from tasks.records.schema import ServedModel
from tasks.serving.protocol import ServeVersion
from tasks.serving.requests import (
    Begun,
    DimensionsError,
    NoMemoryError,
    Reply,
    TooLongTextError,
    UntrainedError,
)
from tasks.stage.errors import NightloomError

MODEL_IDS: dict[str, ServedModel] = {
    "adapter": "adapter",
    "student": "student",
    "nightloom-adapter": "adapter",
    "nightloom-student": "student",
}
_LONGEST_MESSAGE = 1000
# When to ask again for what may be there soon.
_SOON_SECONDS = 5
# Tells what of a request had no effect.
_IGNORED = "x-nightloom-ignored"
_MOST_IGNORED = 32
_LONGEST_NAME = 64


class RequestError(Exception):
    """A request that cannot be answered, as OpenAI's clients expect to be told."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, param=param, code=code, status=status)
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def response(self) -> JSONResponse:
        """Return the answer that tells it."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def error_body(
    message: str, *, param: str | None = None, code: str | None = None, status: int = 400
) -> dict[str, Any]:
    """Return an error in OpenAI's shape; a message that repeats what was sent is cut."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    return {
        "error": {
            "message": _sendable(message[:_LONGEST_MESSAGE]),
            "type": kind,
            "param": None if param is None else _sendable(param),
            "code": code,
        }
    }


def _sendable(text: str) -> str:
    """Return text that is UTF-8 whatever it repeats: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def ignored_header(names: Collection[str]) -> dict[str, str]:
    """Return the header that names what had no effect, none where all had.

    Names come from the client: what a header can't hold is percent-encoded, and of many the first
    are told.
    """
    if not names:
        return {}
    told = [quote(name[:_LONGEST_NAME], safe="", errors="replace") for name in names]
    more = [f"{len(told) - _MOST_IGNORED} more"] if len(told) > _MOST_IGNORED else []
    return {_IGNORED: ", ".join(told[:_MOST_IGNORED] + more)}


def served_name(model: str, served: Sequence[ServedModel]) -> ServedModel:
    """Return which of the server's models a name means.

    Raises:
        RequestError: it is none of them.
    """
    name = MODEL_IDS.get(model)
    if name is None or name not in served:
        shown = ", ".join(f"nightloom-{item} (or {item})" for item in served)
        raise RequestError(
            f"the model {model[:_LONGEST_NAME]!r} is not served here; there is {shown}",
            param="model",
            code="model_not_found",
            status=404,
        )
    return name


def model_object(order: ServeVersion, since: datetime) -> dict[str, Any]:
    """Return a version that answers as OpenAI's `model` object; `version` and `alias` are ours."""
    return {
        "id": f"nightloom-{order.model}",
        "object": "model",
        "created": int(since.timestamp()),
        "owned_by": "nightloom",
        "version": order.version,
        "alias": order.alias,
    }


class Completion:
    """The answer to one request, whole or chunk by chunk.

    With `tells_usage` a stream's last chunk holds its usage, and the others say that it is to come.
    """

    def __init__(self, order: ServeVersion, *, tells_usage: bool = False) -> None:
        self._order = order
        self._tells_usage = tells_usage
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, reply: Reply, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the `chat.completion` object; `given` is what the message holds, if not all its
        text as content.
        """
        said = {"content": reply.text} if given is None else given
        message = {"role": "assistant", "refusal": None, **said}
        why = _why(reply, calls="tool_calls" in said)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": why}
        found = self._object("chat.completion", [choice])
        used = self._used(reply.begun) | {
            "first_token_ms": reply.first_token_ms,
            "latency_ms": reply.latency_ms,
        }
        return found | {"usage": _usage(reply), "nightloom": used}

    def begin(self, begun: Begun) -> dict[str, Any]:
        """Return the first chunk: the role, the version, and the passages."""
        chunk = self._chunk({"role": "assistant", "content": ""}, None)
        return chunk | {"nightloom": self._used(begun)}

    def piece(self, text: str) -> dict[str, Any]:
        """Return a chunk of text."""
        return self._chunk({"content": text}, None)

    def calls(self, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a chunk a call, whole."""
        return [
            self._chunk({"tool_calls": [{"index": index, **call}]}, None)
            for index, call in enumerate(calls)
        ]

    def end(self, reply: Reply, *, calls: bool = False) -> list[dict[str, Any]]:
        """Return the last chunks: why the answer ended, and what it used where that was asked."""
        last = [self._chunk({}, _why(reply, calls=calls))]
        if self._tells_usage:
            last.append(self._object("chat.completion.chunk", []) | {"usage": _usage(reply)})
        return last

    def _chunk(self, delta: dict[str, Any], why: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": why}
        chunk = self._object("chat.completion.chunk", [choice])
        return chunk | {"usage": None} if self._tells_usage else chunk

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": f"nightloom-{self._order.model}",
            "system_fingerprint": f"{self._order.model}-{self._order.version}",
            "choices": choices,
        }

    def _used(self, begun: Begun) -> dict[str, Any]:
        """Return what OpenAI's API has no place for, documented in docs/guides/serving.md."""
        passages = [
            {"id": used.passage.id, "text": used.passage.shown, "score": used.score}
            for used in begun.passages
        ]
        return {
            "version": self._order.version,
            "alias": self._order.alias,
            "passages": passages,
            "prompt_sha256": begun.prompt_sha256,
        }


def _why(reply: Reply, *, calls: bool) -> str:
    if reply.is_cut:
        return "length"
    return "tool_calls" if calls else "stop"


def _usage(reply: Reply) -> dict[str, int]:
    asked, answered = reply.begun.prompt_tokens, len(reply.token_ids)
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }


def not_loaded(message: str) -> RequestError:
    """Return what a request is told while no version of the model that it asks is loaded."""
    return RequestError(message, status=503, code="model_loading", retry_after=_SOON_SECONDS)


def refusal(error: Exception) -> RequestError:
    """Return what a request is told of an error that ended it."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, NoMemoryError):
        return RequestError(str(error), status=503, code="no_memory", retry_after=_SOON_SECONDS)
    if isinstance(error, TooLongTextError):
        return RequestError(str(error), param="input", code="context_length_exceeded")
    if isinstance(error, UntrainedError):
        return RequestError(str(error), param="tools", code="unsupported_value")
    if isinstance(error, DimensionsError):
        return RequestError(str(error), param="dimensions", code="unsupported_value")
    if isinstance(error, NightloomError):
        return RequestError(str(error), code=type(error).__name__)
    return RequestError(
        f"the model failed: {type(error).__name__}: {error}", status=500, code="model_failed"
    )
