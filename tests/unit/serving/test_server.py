"""The server, in a process of its own: OpenAI's chat API over HTTP, and orders by its input."""

import asyncio
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tasks.answering.loading import load_answerer
from tasks.feedback.exchanges import LogPlace
from tasks.feedback.traces import ServedTraces
from tasks.records.schema import Message
from tasks.services.stores import Stores
from tasks.serving.protocol import KeepLog, NotServing, ServeVersion, Serving, TellRegistry
from tests.builders.model_server import BEARER, KEY, QUESTION, Server, running, start
from tests.builders.serving import Bundles

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(bundles, tmp_path_factory.mktemp("server")) as made:
        before = made.get("/health")
        assert (before.status_code, before.json()["status"]) == (503, "loading")
        refused = made.post()
        assert refused.json()["error"]["code"] == "model_loading"
        assert int(refused.headers["retry-after"]) > 0
        assert made.get("/ready").status_code == 503
        assert isinstance(made.serve(1), Serving)
        assert made.get("/ready").status_code == 200
        yield made


def known(bundles: Bundles, version: int, question: str = QUESTION) -> Any:
    answerer = load_answerer(bundles.folders[version], bundles.store, "adapter")
    return answerer.answer([[Message("user", question)]])[0]


def test_an_answer_is_that_of_the_answering_core_in_openais_form(server: Server) -> None:
    found = server.post(temperature=0, seed=3, user="me").json()
    expected = known(server.bundles, 1)
    [choice] = found["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": expected.text, "refusal": None,
    }  # fmt: skip
    assert choice["finish_reason"] in ("stop", "length")
    assert found["object"] == "chat.completion"
    assert found["model"] == "nightloom-adapter"
    assert found["usage"]["completion_tokens"] == len(expected.token_ids)
    assert found["usage"]["total_tokens"] == sum(
        found["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    )
    used = found["nightloom"]
    assert (used["version"], used["alias"]) == (1, "production")
    assert used["prompt_sha256"] == expected.prompt_sha256
    assert [item["id"] for item in used["passages"]] == [
        item.passage.id for item in expected.passages
    ]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_stream_brings_the_same_answer_piece_by_piece(server: Server) -> None:
    response = server.post(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *pieces, end, usage = events(response)
    expected = known(server.bundles, 1)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert first["nightloom"]["passages"]
    said = [chunk["choices"][0]["delta"]["content"] for chunk in pieces]
    assert (len(said) > 4, "".join(said)) == (True, expected.text)
    assert end["choices"][0]["finish_reason"] in ("stop", "length")
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(expected.token_ids)
    assert len({chunk["id"] for chunk in (first, *pieces, end, usage)}) == 1


def test_a_bound_on_tokens_is_kept_and_told(server: Server) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        found = server.post(**{name: 2}).json()
        assert found["usage"]["completion_tokens"] == 2
        assert found["choices"][0]["finish_reason"] == "length"


def test_a_filter_and_parts_of_text_are_understood(server: Server) -> None:
    parts = [{"type": "text", "text": "What does"}, {"type": "text", "text": "mod.f1 do?"}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    found = server.post(messages=turns, where=["document=mod.f2"]).json()
    assert {item["id"].partition("#")[0] for item in found["nightloom"]["passages"]} == {"mod.f2"}


@pytest.mark.parametrize(
    ("body", "status", "param", "text"),
    [
        ({"temperature": 0.7}, 400, "temperature", "answers greedily"),
        ({"top_p": 0.9}, 400, "top_p", "answers greedily"),
        ({"n": 2}, 400, "n", "answers greedily"),
        ({"model": "gpt-4"}, 404, "model", "is not served here; there is nightloom-adapter"),
        ({"model": "student"}, 404, "model", "is not served here"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "nothing to answer"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            400,
            "messages.0.role",
            "the role tool, and the model was not trained to call tools",
        ),
        (
            {"messages": [{"role": "assistant", "content": "I said"}]},
            400,
            "messages",
            "nothing to answer",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "system", "content": "b"},
                    {"role": "user", "content": "c"},
                ]
            },
            400,
            "messages",
            "message 1 is a system message",
        ),
        ({"messages": [{"role": "user", "content": "x" * 200_001}]}, 400, "messages", "characters"),
        ({"messages": [{"role": "user", "content": "a b " * 9000}]}, 400, None, "was made for"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not trained to call tools"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"where": ["colour=red"]}, 400, None, "expected FIELD=VALUE"),
        ({"where": ["source=nowhere"], "stream": True}, 400, None, "no passage has the source"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_form(
    server: Server, body: dict[str, Any], status: int, param: str | None, text: str
) -> None:
    response = server.post(**body)
    found = response.json()["error"]
    assert (response.status_code, found["param"]) == (status, param)
    assert text in found["message"]
    assert found["type"] == "invalid_request_error"


def test_other_paths_bodies_and_hosts_are_refused(server: Server) -> None:
    missing = server.get("/v1/completions")
    assert (missing.status_code, "error" in missing.json()) == (404, True)
    broken = server.client.post("/v1/chat/completions", content=b"{")
    assert (broken.status_code, "not JSON" in broken.json()["error"]["message"]) == (400, True)
    foreign = server.client.get("/health", headers={"host": "evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "foreign_host")


def test_models_are_listed_with_their_version(server: Server) -> None:
    [found] = server.get("/v1/models").json()["data"]
    assert (found["id"], found["version"], found["alias"]) == ("nightloom-adapter", 1, "production")


def test_openais_client_has_answers_stopped_and_texts_embedded(server: Server) -> None:
    expected = known(server.bundles, 1)
    stop = expected.text[len(expected.text) // 2 :][:2]
    before = expected.text[: expected.text.index(stop)].strip()
    direct = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, http_client=direct) as client:
        asked: Any = {"model": "adapter", "messages": [{"role": "user", "content": QUESTION}]}
        [choice] = client.chat.completions.create(**asked, stop=stop).choices
        assert (choice.message.content, choice.finish_reason) == (before, "stop")
        chunks = client.chat.completions.create(**asked, stop=[stop], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == before
        made = client.embeddings.create(model="adapter", input=[QUESTION, "한국어"])
        embedder = load_answerer(
            server.bundles.folders[1], server.bundles.store, "adapter"
        ).embedder
        vectors = [item.embedding for item in made.data]
        np.testing.assert_allclose(vectors, embedder.encode([QUESTION, "한국어"]), atol=1e-6)
        with pytest.raises(openai.BadRequestError) as other:
            client.embeddings.create(model="adapter", input="x", dimensions=3)
        assert (other.value.param, other.value.code) == ("dimensions", "unsupported_value")
        with pytest.raises(openai.BadRequestError, match="send shorter texts"):
            client.embeddings.create(model="adapter", input="word " * 2000)


def test_200_requests_in_flight_over_a_swap_are_all_answered_by_one_version_wholly(
    server: Server,
) -> None:
    expected = {number: known(server.bundles, number).text for number in (1, 2)}
    assert expected[1] != expected[2]
    lost, answers = asyncio.run(_swap_under_load(server))
    assert lost == []
    assert all(text == expected[version] for version, text in answers)
    seen = Counter(version for version, _ in answers)
    assert seen[1] >= 200
    assert seen[2] >= 200
    assert server.health()["models"]["adapter"]["version"] == 2


async def _swap_under_load(server: Server) -> tuple[list[str], list[tuple[int, str]]]:
    """What was lost, and (version, text) of each answer: 200 clients ask until after the swap.

    Every other client streams.
    """
    lost: list[str] = []
    answers: list[tuple[int, str]] = []
    swapped = asyncio.Event()
    begun = asyncio.Barrier(201)
    body = {"model": "adapter", "messages": [{"role": "user", "content": QUESTION}]}
    limits = httpx.Limits(max_connections=None)

    async def ask_until_swapped(client: httpx.AsyncClient, *, streams: bool) -> None:
        is_last, is_first = False, True
        while not is_last:
            is_last = swapped.is_set()
            request = client.post("/v1/chat/completions", json=body | {"stream": streams})
            if is_first:
                await begun.wait()
            is_first = False
            response = await request
            if response.status_code != 200:
                lost.append(response.text)
            elif streams:
                first, *rest = events(response)
                said = [chunk["choices"][0]["delta"].get("content", "") for chunk in rest]
                answers.append((first["nightloom"]["version"], "".join(said)))
            else:
                found = response.json()
                text = found["choices"][0]["message"]["content"]
                answers.append((found["nightloom"]["version"], text))

    async with httpx.AsyncClient(
        base_url=server.address, headers=BEARER, limits=limits, timeout=120, trust_env=False
    ) as client:
        asking = [
            asyncio.create_task(ask_until_swapped(client, streams=number % 2 == 0))
            for number in range(200)
        ]
        await begun.wait()
        await asyncio.sleep(0.5)
        assert isinstance(await asyncio.to_thread(server.serve, 2), Serving)
        swapped.set()
        await asyncio.gather(*asking)
    return lost, answers


def test_a_client_that_goes_leaves_nothing_behind(server: Server) -> None:
    body = {
        "model": "adapter",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
    }
    for _ in range(20):
        with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            next(response.iter_lines())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not server.health()["models"]["adapter"]["in_flight"]:
            return
        time.sleep(0.05)
    pytest.fail("answers that nobody waits for are still made")


def test_an_order_for_a_bundle_that_is_not_there_leaves_the_server_as_it_was(
    server: Server,
) -> None:
    before = server.health()["models"]["adapter"]["version"]
    server.tell(ServeVersion(model="adapter", version=9, alias="production", bundle="/nowhere"))
    notice = server.notice()
    assert isinstance(notice, NotServing)
    assert notice.still == before
    assert notice.error.startswith("ConfigError: /nowhere holds no settings.json")
    assert server.post().status_code == 200


def test_what_the_registry_said_is_in_health(server: Server) -> None:
    for error in ("it is down", None):
        server.tell(TellRegistry(error=error))
        deadline = time.monotonic() + 10
        while server.health()["registry"] != {"error": error}:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_port_that_is_taken_is_an_error_with_a_remedy(bundles: Bundles, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(bundles, tmp_path, "--port", str(taken.getsockname()[1]))
        assert process.wait(60) == 1
    assert "what to do: choose another with --port" in (tmp_path / "log").read_text()


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def log_place(empty_store: Path, tmp_path: Path) -> LogPlace:
    """A store and params to keep questions by."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return LogPlace(
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}",
        artifacts=(tmp_path / "artifacts").as_uri(),
        params="params",
    )


def test_answers_are_kept_and_can_be_marked(server: Server, log_place: LogPlace) -> None:
    assert server.serve(1).version == 1
    refused = server.mark(completion=f"chatcmpl-{'0' * 32}", rating="bad")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "log_is_off")
    server.tell(KeepLog(place=log_place))
    wait_until(lambda: server.health()["log"] is not None)
    whole = server.post().json()
    with_stream = server.post(stream=True).text
    wait_until(lambda: server.health()["log"]["kept"] == 2)
    marked = server.mark(completion=whole["id"], rating="bad", answer="Better.", note="wrong")
    assert marked.status_code == 200, marked.text
    unknown = server.mark(completion=f"chatcmpl-{'0' * 32}", rating="bad")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "completion_not_found")
    for body in ({"rating": "bad"}, {"completion": whole["id"]}, {"completion": "x", "note": "y"}):
        assert server.mark(**body).status_code == 400
    traces = ServedTraces(Stores(log_place.tracking_uri, None))
    found = {item.exchange.completion: item for item in traces.questions()}
    first = found.pop(whole["id"])
    assert first.exchange.answer == whole["choices"][0]["message"]["content"]
    assert [item.id for item in first.exchange.passages] == [
        item["id"] for item in whole["nightloom"]["passages"]
    ]
    assert (first.correct, first.expected, first.note) == (False, "Better.", "wrong")
    [streamed] = found.values()
    assert streamed.exchange.completion in with_stream
    assert streamed.exchange.answer == first.exchange.answer


def test_a_store_that_is_away_costs_entries_and_no_answer(
    server: Server, log_place: LogPlace, tmp_path: Path
) -> None:
    assert server.serve(1).version == 1
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()
    server.tell(KeepLog(place=log_place))

    def is_dropped() -> bool:  # an answer before the order is read goes to the store of before
        assert server.post().status_code == 200
        return bool(server.health()["log"]["dropped"])

    wait_until(is_dropped)
    assert server.health()["log"]["error"]
    assert server.post().status_code == 200
