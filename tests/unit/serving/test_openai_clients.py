"""OpenAI's clients are answered as they are: the real `openai` package, and recorded requests."""

import asyncio
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.builders import openai_requests
from tests.builders.model_server import BEARER, KEY, bounds
from tests.builders.openai_requests import ANSWERED, EMBEDDED, REFUSED
from tests.builders.stub_server import CHAT, StubServer, stub_server

EMBEDDINGS = "/v1/embeddings"
ASK: Any = [{"role": "user", "content": "why"}]
MODEL = "nightloom-adapter"
_OPTIONS = {"extra_headers", "extra_query", "extra_body", "timeout"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    with stub_server(tmp_path_factory.mktemp("server"), bounds(texts=4)) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: StubServer) -> Iterator[OpenAI]:
    direct = openai.DefaultHttpxClient(trust_env=False)
    with OpenAI(
        base_url=f"{server.address}/v1", api_key=KEY, http_client=direct, max_retries=0
    ) as made:
        yield made


def ignored(response: httpx.Response) -> list[str]:
    header = response.headers.get("x-nightloom-ignored", "")
    return header.split(", ") if header else []


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, which has OpenAI's shape."""
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert set(found) == {"error"}
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["message"]
    assert found["error"]["type"].endswith("_error")
    error: dict[str, Any] = found["error"]
    return error


@pytest.mark.parametrize("name", ANSWERED)
def test_what_clients_send_is_answered_and_what_did_nothing_is_named(
    server: StubServer, name: str
) -> None:
    content, named = ANSWERED[name]
    response = server.client.post(CHAT, json=openai_requests.body(content))
    assert response.status_code == 200, response.text
    assert ignored(response) == named


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_answered_otherwise_is_refused_by_name(server: StubServer, name: str) -> None:
    content, param = REFUSED[name]
    response = server.client.post(CHAT, json=openai_requests.body(content))
    assert (response.status_code, error_of(response)["param"]) == (400, param)


@pytest.mark.parametrize("name", EMBEDDED)
def test_what_clients_send_for_embeddings_is_answered(server: StubServer, name: str) -> None:
    content, named = EMBEDDED[name]
    response = server.client.post(EMBEDDINGS, json=openai_requests.body(content))
    assert response.status_code == 200, response.text
    assert ignored(response) == named


PARAMETERS = sorted(
    set(inspect.signature(OpenAI(api_key="k").chat.completions.create).parameters)
    - _OPTIONS
    - {"messages", "model"}
)


def test_every_parameter_of_openai_may_be_null(server: StubServer) -> None:
    assert len(PARAMETERS) >= 34
    for name in PARAMETERS:
        response = server.post(**{name: None})
        assert (response.status_code, ignored(response)) == (200, []), name
    response = server.post(**dict.fromkeys(PARAMETERS))
    assert (response.status_code, ignored(response)) == (200, [])


# Effect, a value, and what the answer does: its status, and what it names.
EFFECTS: dict[str, list[tuple[str, Any]]] = {
    "audio": [("refused", {"voice": "alloy", "format": "wav"})],
    "frequency_penalty": [("honoured", 0), ("refused", 0.5)],
    "function_call": [("honoured", "none"), ("refused", {"name": "f"})],
    "functions": [("honoured", []), ("refused", [{"name": "f"}])],
    "logit_bias": [("honoured", {}), ("refused", {"50": 1})],
    "logprobs": [("honoured", False), ("refused", True)],
    "max_completion_tokens": [("honoured", 7)],
    "max_tokens": [("honoured", 7)],
    "metadata": [("no effect", {"a": "b"})],
    "modalities": [("honoured", ["text"]), ("refused", ["text", "audio"])],
    "moderation": [("refused", {"model": "m"})],
    "n": [("honoured", 1), ("refused", 2), ("refused", True)],
    "parallel_tool_calls": [("no effect", False)],
    "prediction": [("no effect", {"type": "content", "content": "x"})],
    "presence_penalty": [("honoured", 0.0), ("refused", -1)],
    "prompt_cache_key": [("no effect", "k")],
    "prompt_cache_options": [("no effect", {"mode": "explicit"})],
    "prompt_cache_retention": [("no effect", "24h")],
    "reasoning_effort": [("no effect", "low")],
    "response_format": [
        ("honoured", {"type": "text"}),
        ("refused", {"type": "json_object"}),
        ("refused", {"type": "json_schema", "json_schema": {"name": "A", "schema": {}}}),
    ],
    "safety_identifier": [("no effect", "s")],
    "seed": [("honoured", 3)],
    "service_tier": [("no effect", "auto")],
    "stop": [
        ("honoured", "x"),
        ("honoured", ["x", "y"]),
        ("refused", ""),
        ("refused", ["x"] * 17),
        ("refused", [""]),
        ("refused", 5),
    ],
    "store": [("no effect", True), ("no effect", False)],
    "stream": [("honoured", False), ("honoured", True)],
    "stream_options": [("no effect", {"include_usage": True})],  # without a stream
    "temperature": [("honoured", 0), ("no effect", 1), ("refused", 0.7), ("refused", True)],
    "tool_choice": [("honoured", "auto"), ("refused", "required")],
    "tools": [("honoured", []), ("refused", [{"type": "function", "function": {"name": "f"}}])],
    "top_logprobs": [("honoured", 0), ("refused", 2)],
    "top_p": [("honoured", 1), ("refused", 0.5)],
    "user": [("no effect", "u")],
    "verbosity": [("no effect", "low")],
    "web_search_options": [("refused", {"search_context_size": "low"})],
}


@pytest.mark.parametrize("name", EFFECTS)
def test_a_parameter_does_what_the_table_says(server: StubServer, name: str) -> None:
    for effect, value in EFFECTS[name]:
        response = server.post(**{name: value})
        assert ignored(response) == ([name] if effect == "no effect" else []), value
        assert response.status_code == (400 if effect == "refused" else 200), value
        if effect == "refused":
            assert error_of(response)["param"] == ("stop.0" if value == [""] else name), value


def test_the_guides_table_holds_every_parameter_of_openai_and_says_what_is_done() -> None:
    page = Path("docs/guides/serving.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    found = {name.strip(" `"): effects for names, effects, _ in rows for name in names.split(",")}
    assert set(PARAMETERS) == set(EFFECTS)
    for name, cases in EFFECTS.items():
        for effect in {effect for effect, _ in cases}:
            assert effect in found[name], name


def test_names_of_a_client_that_no_header_can_hold_are_encoded_and_bounded(
    server: StubServer,
) -> None:
    response = server.post(**{"a, b\r\nx: y": 1, "한": 2})
    assert ignored(response) == ["a%2C%20b%0D%0Ax%3A%20y", "%ED%95%9C"]
    response = server.post(**{f"p{n}" * 50: n for n in range(60)})
    assert len(ignored(response)) == 33
    assert ignored(response)[-1] == "28 more"
    assert len(response.headers["x-nightloom-ignored"]) < 4000


def test_an_answer_goes_back_as_history_in_each_form(client: OpenAI, server: StubServer) -> None:
    first = client.chat.completions.create(model=MODEL, messages=ASK, stop=["\n"])
    said = first.choices[0].message
    assert (said.content, first.choices[0].finish_reason) == ("yes", "stop")
    for again in (said, said.model_dump(), said.to_dict(), said.model_dump(exclude_none=True)):
        turns: Any = [{"role": "developer", "content": "Be brief."}, *ASK, again, *ASK]
        assert client.chat.completions.create(model=MODEL, messages=turns).choices
    roles = [turn.role for turn in server.engine.asked[-1].turns]
    assert roles == ["system", "user", "assistant", "user"]
    assert list(server.engine.asked[-5].stops) == ["\n"]


def test_a_stream_tells_its_usage_in_its_last_chunk_alone(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "yes"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    plain = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True))
    assert all("usage" not in chunk.model_fields_set for chunk in plain)
    with client.chat.completions.stream(model=MODEL, messages=ASK) as stream:
        assert stream.get_final_completion().choices[0].message.content == "yes"


def test_the_asynchronous_client_is_answered_too(server: StubServer) -> None:
    async def ask() -> str | None:
        direct = openai.DefaultAsyncHttpxClient(trust_env=False)
        base = f"{server.address}/v1"
        async with AsyncOpenAI(base_url=base, api_key=KEY, http_client=direct) as client:
            found = await client.chat.completions.create(model=MODEL, messages=ASK)
            return found.choices[0].message.content

    assert asyncio.run(ask()) == "yes"


def test_what_did_nothing_can_be_read_from_the_clients_raw_response(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, user="u", temperature=1, extra_body={"min_p": 0.1}
    )
    assert raw.headers["x-nightloom-ignored"] == "user, min_p, temperature"


def test_models_are_listed_and_found_by_either_name(client: OpenAI) -> None:
    [listed] = client.models.list()
    for name in (listed.id, "adapter"):
        assert client.models.retrieve(name) == listed
    for missing in ("gpt-4", "student", "nightloom-adapter/x"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(missing)


def test_embeddings_come_as_floats_and_as_base64(client: OpenAI, server: StubServer) -> None:
    """The client asks for base64 by itself and decodes it."""
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = client.embeddings.create(model=MODEL, input=["why", "한국"], **options)  # type: ignore[arg-type]
        assert [item.index for item in found.data] == [0, 1]
        assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == (MODEL, 6, 6)
        if options != {"encoding_format": "base64"}:
            assert [item.embedding for item in found.data] == [[3.0, 0.5], [2.0, 0.5]]
    assert client.embeddings.create(model=MODEL, input="why").data[0].embedding == [3.0, 0.5]
    text = server.client.post(EMBEDDINGS, json={"model": MODEL, "input": "why"}).json()
    assert text["data"][0]["embedding"] == [3.0, 0.5]
    assert text["nightloom"]["cut"] == 0


@pytest.mark.parametrize(
    ("content", "param", "words"),
    [
        ({"input": [1, 2]}, "input", "token ids"),
        ({"input": [[1, 2], [3]]}, "input", "token ids"),
        ({"input": list(range(100_000))}, "input", "token ids"),
        ({"input": ["x"] * 100_000}, "input", "there are 100000 texts"),
        ({"input": ["x", [{}] * 100_000]}, "input", "text 1 is empty, or no text"),
        ({"input": []}, "input", "neither a text nor a list"),
        ({"input": {"a": 1}}, "input", "neither a text nor a list"),
        ({"input": ""}, "input", "text 0 is empty"),
        ({"input": ["x", " "]}, "input", "text 1 is empty"),
        ({"input": ["x", None]}, "input", "text 1 is empty, or no text"),
        ({"input": ["x"] * 5}, "input", "at most 4 are taken (requests.texts)"),
        ({"input": "x" * 1_000_001}, "input", "at most 1000000 are taken"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "x", "dimensions": 0}, "dimensions", "greater than"),
        ({}, "input", "required"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    server: StubServer, content: dict[str, Any], param: str, words: str
) -> None:
    response = server.client.post(EMBEDDINGS, json={"model": MODEL} | content)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]


def test_another_model_embeds_nothing(server: StubServer) -> None:
    response = server.client.post(EMBEDDINGS, json={"model": "ada", "input": "x"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


def test_the_clients_own_errors_come_of_ours(client: OpenAI, server: StubServer) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=ASK, temperature=0.7)
    assert (bad.value.param, bad.value.code) == ("temperature", "unsupported_value")
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=ASK)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another").models.list()
    with pytest.raises(openai.PermissionDeniedError):
        client.models.list(extra_headers={"origin": "http://evil.example"})
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="x")


WRONG_BODIES = (
    b"{", b"", b"[]", b"1", b'{"model": "\xff"}', b"\xed\xa0\x80",
    rb'{"model": "\ud800"}', rb'{"\udfff": 1}', rb'{"messages": [{"role": "\ud83d"}]}',
    b'{"model": NaN}', b'{"model": "adapter", "messages": [null]}',
    b'{"model": "adapter", "messages": [{"role": "user", "content": 5}]}',
    b'{"model": "adapter", "messages": [{"role": "user", "content": null}]}',
    b'{"model": "adapter", "input": 5}', b'{"completion": 5}',
)  # fmt: skip


@pytest.mark.slow
def test_every_error_has_openais_shape_on_every_route(server: StubServer) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    assert {"/v1/models/{model}", EMBEDDINGS, CHAT} <= set(paths)
    foreign = ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"host": "a b"})
    for path in [*(path.replace("{model}", "%ED%A0%80") for path in paths), "/none", "/%ff"]:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            for headers in foreign:
                response = server.client.request(method, path, headers=headers)
                assert (response.status_code, error_of(response)["param"]) == (403, None)
            with httpx.Client(base_url=server.address, trust_env=False) as stranger:
                response = stranger.request(method, path)
                if response.status_code != 200:
                    assert (response.status_code, error_of(response)["code"]) == (
                        401, "invalid_api_key",
                    )  # fmt: skip
            response = server.client.request(method, path)
            if response.status_code != 200:
                assert response.status_code in (400, 404, 405)
                error_of(response)
        if "post" in paths.get(path, {}):
            for content in WRONG_BODIES:
                response = server.client.post(path, content=content)
                assert (response.status_code, bool(error_of(response))) == (400, True), content
            response = server.client.post(path, content=b" " * 3_000_000)
            assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


def test_what_was_not_foreseen_has_openais_shape_and_is_counted(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("out of luck")

    monkeypatch.setattr(server.engine, "ask", broken)
    response = server.post()
    assert (response.status_code, error_of(response)["code"]) == (500, "model_failed")
    line = f'nightloom_requests_total{{route="{CHAT}",status="500"}} 1.0'
    assert line in server.get("/metrics").text


def test_embedded_texts_are_counted(server: StubServer) -> None:
    server.client.post(EMBEDDINGS, json={"model": MODEL, "input": "why"}, headers=BEARER)
    text = server.get("/metrics").text
    [line] = [item for item in text.splitlines() if 'kind="embedded"' in item and "total" in item]
    assert float(line.split()[-1]) >= 3


def test_a_refusal_repeats_little_of_what_was_sent(server: StubServer) -> None:
    response = server.post(tools=[{"type": "x" * 1_000_000}])
    assert len(json.dumps(error_of(response))) < 2000
    response = server.post(response_format={"type": "x" * 1_000_000})
    assert len(json.dumps(error_of(response))) < 2000
