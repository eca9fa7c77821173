"""What a body may hold: each bound has its error, and none takes long, whatever is sent."""

import json
import time
from typing import Any

import pytest

from tasks.feedback.exchanges import Feedback
from tasks.serving.bodies import parse
from tasks.serving.chat_request import ChatRequest
from tasks.serving.openai_api import RequestError
from tests.builders.model_server import bounds

BOUNDS = bounds()
BYTES = BOUNDS.body_kilobytes * 1024
USER = {"role": "user", "content": "why"}


def body(**other: Any) -> Any:
    return {"model": "adapter", "messages": [USER]} | other


def many(item: str) -> str:
    """As many of them in a list as the largest body holds."""
    return "[" + ",".join([item] * ((BYTES - 100) // (len(item) + 1))) + "]"


def text(messages: str = "[]", rest: str = "") -> str:
    return f'{{"model": "adapter", "messages": {messages}{rest}}}'


# What is sent, the code and the param of its error, and a part of the message.
LARGE: dict[str, tuple[str, str | None, str | None, str]] = {
    "empty objects": (text(many("{}")), "array_above_max_length", "messages", "at most 256"),
    "empty messages": (
        text(many('{"role":"user","content":""}')), "array_above_max_length", "messages", "at most",
    ),
    "wrong messages": (text(many("0")), "array_above_max_length", "messages", "at most 256"),
    "empty parts": (
        text(f'[{{"role":"user","content":{many("{}")}}}]'), "request_too_large", None, "values",
    ),
    "unknown keys": (
        "{" + ",".join(f'"{n}":0' for n in range(BYTES // 12)) + "}",
        "request_too_large", None, "values",
    ),
    "unknown keys in a message": (
        text("[{" + ",".join(f'"{n}":0' for n in range(BYTES // 12)) + "}]"),
        "request_too_large", None, "values",
    ),
    "stops": (text(rest=f', "stop": {many(chr(34) + "a" + chr(34))}'), "request_too_large", None,
              "values"),
    "tools": (text(rest=f', "tools": {many("{}")}'), "request_too_large", None, "values"),
    "conditions": (text(rest=f', "where": {many(chr(34) * 2)}'), "request_too_large", None,
                   "values"),
    "deep lists": (text("[" * 500_000 + "]" * 500_000), None, None, "recursion limit"),
    "deep objects": (text('{"a":' * 200_000 + "0" + "}" * 200_000), None, None, "recursion limit"),
    "deep and wide": (text(many("[[[[[[]]]]]]")), "array_above_max_length", "messages", "at most"),
    "a long number": (text(rest=f', "seed": {"9" * (BYTES // 2)}'), None, None, ""),
    "a long model": (text(rest=f', "model": "{"m" * (BYTES // 2)}"'), None, "model", "at most 100"),
    "a long stop": (
        text(json.dumps([USER]), rest=f', "stop": "{"u" * (BYTES // 2)}"'), None, "stop",
        "at most 200",
    ),
    "a long key": (f'{{"{"k" * (BYTES // 2)}": 0}}', None, None, ""),
    "one long message": (
        text(json.dumps([USER | {"content": "x" * 200_001}])), "context_length_exceeded",
        "messages", "at most 200000",
    ),
    "escapes": (
        text('[{"role":"user","content":"' + r"\uac00" * 200_001 + '"}]'),
        "context_length_exceeded", "messages", "at most 200000",
    ),
    "no numbers": (text(rest=', "temperature": NaN'), None, None, ""),
    "endless": (text(rest=', "temperature": 1e999'), None, None, ""),
    "half a character": (text(rest=r', "user": "\ud800"'), None, None, ""),
    "a list": (many("{}"), None, None, "no JSON object"),
    "a number": ("1", None, None, "no JSON object"),
    "nothing": ("", None, None, "not JSON"),
    "spaces": (" " * BYTES, None, None, "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_each_bound_has_its_own_error_and_is_found_soon(name: str) -> None:
    sent, code, param, words = LARGE[name]
    assert len(sent) <= BYTES
    begun = time.process_time()
    with pytest.raises(RequestError) as found:
        parse(sent.encode(), ChatRequest, BOUNDS).turns(BOUNDS.characters)
    assert time.process_time() - begun < 1.0
    error = found.value.body["error"]
    assert found.value.status == 400
    assert words in error["message"]
    assert len(json.dumps(error)) < 2000
    if code is not None:
        assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(
    "sent",
    [
        body(max_tokens=10**18, seed=1, user="me"),
        body(max_completion_tokens=2**31),
        body(messages=[USER, {"role": "assistant", "content": "so"}] * 127 + [USER]),
        body(messages=[{"role": "user", "content": [{"type": "text", "text": "why"}] * 100}]),
        body(messages=[USER | {"content": "한" * 200_000}]),
        body(where=["source=python_docs"] * 100),
    ],
)
def test_what_is_in_bounds_is_read(sent: Any) -> None:
    for ascii_only in (True, False):
        content = json.dumps(sent, ensure_ascii=ascii_only).encode()
        assert len(content) <= BYTES
        assert parse(content, ChatRequest, BOUNDS).turns(BOUNDS.characters)


def test_bytes_that_are_no_text_are_refused() -> None:
    for content in (b"\xff\xfe{}", b'{"model": "\xc3("}', b"\x00"):
        with pytest.raises(RequestError, match="not JSON"):
            parse(content, ChatRequest, BOUNDS)


@pytest.mark.parametrize("name", ["answer", "note"])
def test_feedback_is_bounded_too(name: str) -> None:

    def long(count: int) -> bytes:
        return json.dumps({"completion": f"chatcmpl-{'0' * 32}", name: "x" * count}).encode()

    assert parse(long(20_000), Feedback, BOUNDS)
    with pytest.raises(RequestError, match="at most 20000"):
        parse(long(20_001), Feedback, BOUNDS)
