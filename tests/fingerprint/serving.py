"""HTTP: what `nightloom serve` answers to a fixed list of requests."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fingerprint.clone import Clone
from tests.fingerprint.values import Values

_CHAT = "/v1/chat/completions"
_ASK = {
    "model": "nightloom-adapter",
    "messages": [{"role": "user", "content": "What does json.dumps do?"}],
}
_UP_SECONDS = 300
_HEADERS = ("content-type", "allow", "www-authenticate", "x-nightloom-ignored")
_MODELS = ("--model", "adapter", "--model", "student", "--alias", "candidate")
# What is asked: a name, the method, the path, the body, more headers.
_REQUESTS: tuple[tuple[str, str, str, Any, dict[str, str]], ...] = (
    ("health", "GET", "/health", None, {}),
    ("models", "GET", "/v1/models", None, {}),
    ("answer", "POST", _CHAT, _ASK, {}),
    ("answer of the student", "POST", _CHAT, _ASK | {"model": "student"}, {}),
    ("stream", "POST", _CHAT, _ASK | {"stream": True}, {}),
    ("stream with usage", "POST", _CHAT,
     _ASK | {"stream": True, "stream_options": {"include_usage": True}}, {}),
    ("fewer tokens", "POST", _CHAT, _ASK | {"max_tokens": 2}, {}),
    ("filtered", "POST", _CHAT, _ASK | {"where": ["source=nowhere"]}, {}),
    ("no such field", "POST", _CHAT, _ASK | {"where": ["colour=red"]}, {}),
    ("no tools", "POST", _CHAT, _ASK | {"tools": []}, {}),
    ("tools", "POST", _CHAT, _ASK | {"tools": [{"type": "function"}]}, {}),
    ("unknown parameter", "POST", _CHAT, _ASK | {"top_k": 3, "temperature": 1.0}, {}),
    ("sampled", "POST", _CHAT, _ASK | {"temperature": 0.7}, {}),
    ("stopped", "POST", _CHAT, _ASK | {"stop": ["e"]}, {}),
    ("embedded", "POST", "/v1/embeddings", {"model": "adapter", "input": ["x", "y"]}, {}),
    ("one model", "GET", "/v1/models/nightloom-adapter", None, {}),
    ("unknown model", "POST", _CHAT, _ASK | {"model": "other"}, {}),
    ("no messages", "POST", _CHAT, _ASK | {"messages": []}, {}),
    ("assistant last", "POST", _CHAT,
     _ASK | {"messages": [{"role": "assistant", "content": "Yes."}]}, {}),
    ("no JSON", "POST", _CHAT, "{", {}),
    ("wrong method", "GET", _CHAT, None, {}),
    ("no such route", "GET", "/v1/completions", None, {}),
    ("no documentation", "GET", "/docs", None, {}),
    ("foreign host", "GET", "/health", None, {"host": "example.org"}),
    ("no key", "GET", "/v1/models", None, {"authorization": "none"}),
)  # fmt: skip


def add_serving(values: Values, clone: Clone) -> None:
    """Add the status, the kind and the body of each answer."""
    with _served(clone) as address:
        key = (clone.root / ".nightloom" / "private" / "serve-key").read_text(encoding="utf-8")
        bearer = {"authorization": f"Bearer {key.strip()}"}
        for name, method, path, body, headers in _REQUESTS:
            status, found, text = _ask(address, method, path, body, bearer | headers)
            place = f"http/{name}"
            values.add(f"{place}/status", f"{method} {path}: {status}")
            for header in _HEADERS:
                values.add(f"{place}/{header}", found.get(header))
            _add_body(values, f"{place}/body", text)


def _add_body(values: Values, key: str, text: str) -> None:
    """Add a body by its leaves; a stream's pieces are told by their text together."""
    if not text.startswith("data: "):
        _add_json(values, key, text)
        return
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    values.add(f"{key}.end", lines[-1])
    said = [item["delta"].get("content") or "" for chunk in chunks for item in chunk["choices"]]
    values.add(f"{key}.content", "".join(said))
    # A piece may hold one token's text or several, as they come.
    values.add_nested(f"{key}.first", chunks[0])
    values.add_nested(f"{key}.last", chunks[-1])


def _add_json(values: Values, key: str, text: str) -> None:
    try:
        values.add_nested(key, json.loads(text))
    except ValueError:
        values.add(key, text)


def _ask(
    address: str, method: str, path: str, body: Any, headers: dict[str, str]
) -> tuple[int, dict[str, str], str]:
    text = body if isinstance(body, str) else None if body is None else json.dumps(body)
    data = None if text is None else text.encode()
    request = urllib.request.Request(
        address + path, data, {"content-type": "application/json"} | headers, method=method
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as response:
            return response.status, _lower(response.headers), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, _lower(error.headers), error.read().decode()


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): text for name, text in headers.items()}


@contextmanager
def _served(clone: Clone) -> Iterator[str]:
    """The address of a server of both candidates, once they answer."""
    file = clone.root / ".nightloom" / "serving.json"
    log = clone.root / ".nightloom" / "fingerprint-serve.log"
    with log.open("w", encoding="utf-8") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", "--port", "0", *_MODELS],
            cwd=clone.root, env=clone.environment(), stdout=stream, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield _wait(child, file, log)
    finally:
        os.killpg(child.pid, signal.SIGINT)
        child.wait(timeout=60)


def _wait(child: "subprocess.Popen[bytes]", file: Path, log: Path) -> str:
    deadline = time.monotonic() + _UP_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.3)
        if not file.exists():
            continue
        address = str(json.loads(file.read_text(encoding="utf-8"))["address"])
        try:
            if _ask(address, "GET", "/health", None, {})[0] == 200:
                return address
        except OSError:
            continue
    raise RuntimeError(f"nightloom serve did not come up: {log.read_text()[-2000:]}")
