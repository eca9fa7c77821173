"""The parts of OpenAI's chat API that this server speaks: requests, answers, errors.

What is not here is refused by name: a parameter that did nothing would be worse than an error.
"""

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from tasks.records.schema import Message, ServedModel
from tasks.serving.protocol import ServeVersion
from tasks.serving.requests import Begun, NoMemoryError, Reply
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
_SAMPLING: dict[str, tuple[object, ...]] = {
    "temperature": (None, 0),
    "top_p": (None, 1),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
}


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
    message = message[:_LONGEST_MESSAGE]
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn; content is text, or parts that are text."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]

    def turn(self) -> Message:
        """Return the turn as the answering core knows it."""
        if isinstance(self.content, str):
            return Message(self.role, self.content)
        return Message(self.role, "\n".join(part.text for part in self.content))


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`.

    `seed` and `user` are taken and change nothing: answers are greedy, so the same each time.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=100)
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    user: str | None = Field(default=None, max_length=1000)
    where: list[Annotated[str, Field(max_length=1000)]] = Field(
        default=[],
        max_length=100,
        description="FIELD=VALUE: search only such passages; ours, not OpenAI's",
    )

    @property
    def new_tokens(self) -> int | None:
        """Return the bound on new tokens that the request asks for."""
        asked = self.max_completion_tokens
        return self.max_tokens if asked is None else asked

    @property
    def tells_usage(self) -> bool:
        """Return whether a stream is to end with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def served_name(self, served: "list[ServedModel]") -> ServedModel:
        """Return which of the server's models is asked.

        Raises:
            RequestError: it is none of them.
        """
        name = MODEL_IDS.get(self.model)
        if name is None or name not in served:
            shown = ", ".join(f"nightloom-{item} (or {item})" for item in served)
            raise RequestError(
                f"the model {self.model!r} is not served here; there is {shown}",
                param="model",
                code="model_not_found",
                status=404,
            )
        return name

    def turns(self, most_characters: int) -> list[Message]:
        """Return the conversation, ready to be answered.

        Raises:
            RequestError: it asks for sampling, its turns are not what can be answered, or they
                have more than `most_characters` together.
        """
        for name, allowed in _SAMPLING.items():
            value = getattr(self, name)
            if value not in allowed:
                raise RequestError(
                    f"{name} is {value}, which asks for sampling; this server answers greedily, "
                    f"as its versions were evaluated: leave {name} out, or send {allowed[1]}",
                    param=name,
                    code="unsupported_value",
                )
        turns = [message.turn() for message in self.messages]
        _check_turns(turns, most_characters)
        return turns


def _check_turns(turns: list[Message], most_characters: int) -> None:
    late = [at for at, turn in enumerate(turns) if turn.role == "system" and at > 0]
    if late:
        raise RequestError(
            f"message {late[0]} is a system message; only the first message can be one",
            param="messages",
        )
    if turns[-1].role != "user" or not turns[-1].content.strip():
        raise RequestError(
            "the last message is not a user's message with text, so there is nothing to answer",
            param="messages",
        )
    characters = sum(len(turn.content) for turn in turns)
    if characters > most_characters:
        raise RequestError(
            f"the messages have {characters} characters; at most {most_characters} are read "
            "(requests.characters)",
            param="messages",
            code="context_length_exceeded",
        )


class Completion:
    """The answer to one request, whole or chunk by chunk."""

    def __init__(self, order: ServeVersion) -> None:
        self._order = order
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, reply: Reply) -> dict[str, Any]:
        """Return the `chat.completion` object."""
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _why(reply)}
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

    def end(self, reply: Reply) -> dict[str, Any]:
        """Return the chunk that says why the answer ended."""
        return self._chunk({}, _why(reply))

    def usage(self, reply: Reply) -> dict[str, Any]:
        """Return the last chunk of a stream that is to tell its usage."""
        return self._object("chat.completion.chunk", []) | {"usage": _usage(reply)}

    def _chunk(self, delta: dict[str, str], why: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": why}
        return self._object("chat.completion.chunk", [choice])

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


def _why(reply: Reply) -> str:
    return "length" if reply.is_cut else "stop"


def _usage(reply: Reply) -> dict[str, int]:
    asked, answered = reply.begun.prompt_tokens, len(reply.token_ids)
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }


def not_loaded(error: Exception) -> RequestError:
    """Return what a request is told while no version of the model that it asks is loaded."""
    return RequestError(str(error), status=503, code="model_loading", retry_after=_SOON_SECONDS)


def refusal(error: Exception) -> RequestError:
    """Return what a request is told of an error that ended it."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, NoMemoryError):
        return RequestError(str(error), status=503, code="no_memory", retry_after=_SOON_SECONDS)
    if isinstance(error, NightloomError):
        return RequestError(str(error), code=type(error).__name__)
    return RequestError(
        f"the model failed: {type(error).__name__}: {error}", status=500, code="model_failed"
    )
