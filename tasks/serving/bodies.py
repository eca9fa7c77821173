"""Bodies of requests: read in bounds of size and time, and parsed beside the event loop."""

import asyncio
import gc
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from tasks.feedback.params import RequestParams
from tasks.serving.gate import check_length
from tasks.serving.openai_api import RequestError

B = TypeVar("B", bound=BaseModel)
# Values (objects, lists, texts, numbers) of a body: a message has four, with some in parts.
_VALUES_A_MESSAGE = 12
_OTHER_VALUES = 1000
# One thread parses: beside it, the event loop and the engines always get Python's lock in turn.
_PARSER = ThreadPoolExecutor(1, thread_name_prefix="parser")


async def read_body(request: Request, cls: type[B], bounds: RequestParams) -> B:
    """Return the body of a request.

    Raises:
        RequestError: it does not come in time, is too large, or is not what is expected.
    """
    try:
        async with asyncio.timeout(bounds.read_seconds):
            content = await _read(request, bounds)
    except TimeoutError:
        raise RequestError(
            f"the body did not come in {bounds.read_seconds:g} seconds (requests.read_seconds)",
            status=408,
            code="request_timeout",
        ) from None
    except ClientDisconnect:
        raise RequestError("the client has gone", status=499) from None
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_PARSER, parse, content, cls, bounds)


async def _read(request: Request, bounds: RequestParams) -> bytes:
    content = bytearray()
    async for piece in request.stream():
        content += piece
        check_length(len(content), bounds)
    return bytes(content)


def parse(content: bytes, cls: type[B], bounds: RequestParams) -> B:
    """Return what a body says, as an instance of `cls`.

    How much it holds is looked at before it is validated: each of 100,000 wrong values would be
    an error of its own.

    Raises:
        RequestError: it is no JSON, holds too much, or is not valid.
    """
    try:
        with _no_collections():
            found = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON that can be read: {error}") from None
    if not isinstance(found, dict):
        raise RequestError("the body is no JSON object")
    _check_amount(found, bounds)
    try:
        return cls.model_validate(found)
    except ValidationError as error:
        raise _invalid(error, found) from None


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python from looking for circles of objects, for JSON has none.

    Four million empty lists in a body of 8 MB take 0.1 s to be made, and 1 s with the collections
    that they set off. Python's lock is held all the while: no other thread goes without them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _check_amount(found: Mapping[str, Any], bounds: RequestParams) -> None:
    messages = found.get("messages")
    if isinstance(messages, list) and len(messages) > bounds.messages:
        raise RequestError(
            f"there are {len(messages)} messages; at most {bounds.messages} are taken "
            "(requests.messages)",
            param="messages",
            code="array_above_max_length",
        )
    most = _VALUES_A_MESSAGE * bounds.messages + _OTHER_VALUES
    # Texts to be embedded have a bound of their own, and are no models to be validated.
    if _holds_more({name: value for name, value in found.items() if name != "input"}, most):
        raise RequestError(
            f"the body holds more than {most} values; that many belong to a conversation of "
            f"{bounds.messages} messages (requests.messages)",
            code="request_too_large",
        )


def _holds_more(found: object, most: int) -> bool:
    """Return whether JSON holds more values than `most`, at any depth; keys count too."""
    waiting, count = [found], 0
    while waiting:
        value = waiting.pop()
        inner = list(value.values()) if isinstance(value, dict) else value
        if isinstance(inner, list):
            count += len(inner)
            if count > most:
                return True
            waiting += [item for item in inner if isinstance(item, (dict, list))]
    return False


def _invalid(error: ValidationError, found: Mapping[str, Any]) -> RequestError:
    """Return the first thing that is wrong."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, _place(first["loc"], found)))[:100]
    if first["type"] == "extra_forbidden":
        return RequestError(
            f"{place} is not a parameter that this server knows",
            param=place,
            code="unknown_parameter",
        )
    return RequestError(f"{place or 'the body'}: {first['msg'].lower()}", param=place or None)


def _place(parts: Sequence[int | str], found: object) -> Iterator[int | str]:
    """Yield the keys that lead to a place in JSON; pydantic names each type that it tried too."""
    for part in parts:
        is_key = isinstance(found, dict) and part in found
        if is_key or (isinstance(found, list) and isinstance(part, int)):
            found = found[part]  # type: ignore[index]
        elif not isinstance(found, dict):  # a type
            continue
        yield part


def documented(cls: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of a route whose body `read_body` reads."""
    content = {"application/json": {"schema": cls.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
