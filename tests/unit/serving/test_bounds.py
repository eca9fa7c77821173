"""Whatever one client sends, however slowly and however often, the others are answered.

The gate, the connections and the routes are the real ones; the engine is none.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.serving import connections, gate
from tests.builders.model_server import BEARER, KEY, QUESTION, bounds
from tests.builders.stub_server import CHAT, StubServer, stub_server
from tests.unit.serving.test_bodies import LARGE

SMALL = bounds(in_flight=6, connections=24, head_kilobytes=8, read_seconds=2.0, answer_seconds=60.0)
BODY = json.dumps({"model": "adapter", "messages": [{"role": "user", "content": QUESTION}]})
# A machine that other tests use as well may take so long for anything.
_SOON = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    with stub_server(tmp_path_factory.mktemp("server"), SMALL) as made:
        assert made.post().status_code == 200
        yield made


@contextmanager
def connection(server: StubServer) -> Iterator[socket.socket]:
    url = httpx.URL(server.address)
    with socket.create_connection((url.host, url.port or 0), timeout=30) as made:
        yield made


def head(length: int, *lines: str, key: str = KEY) -> bytes:
    shown = [f"POST {CHAT} HTTP/1.1", "host: localhost", f"authorization: Bearer {key}", *lines]
    return "\r\n".join([*shown, f"content-length: {length}", "", ""]).encode()


def answer(sent: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the one answer before the server closes, or is silent."""
    with sent.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, json.loads(stream.read(int(headers["content-length"])))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 6 * _SOON
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_closed(sent: socket.socket) -> bool:
    try:
        return sent.recv(1) == b""
    except ConnectionResetError:
        return True


def others_wait(server: StubServer, attack: Callable[[], object]) -> float:
    """The longest that another client waits for an answer while an attack goes on.

    In seconds of this process, which is the server's too: other programs don't count.
    """
    thread = threading.Thread(target=attack)
    thread.start()
    longest = 0.0
    with httpx.Client(base_url=server.address, headers=BEARER, timeout=60, trust_env=False) as one:
        while thread.is_alive():
            begun = time.process_time()
            assert one.get("/v1/models").status_code == 200
            longest = max(longest, time.process_time() - begun)
            time.sleep(0.01)
    return longest


@pytest.mark.slow
def test_no_body_makes_the_others_wait(server: StubServer) -> None:
    """Among them the 8 MB of 300,000 empty messages, which once took minutes."""
    empty = {"role": "user", "content": ""}
    eight = json.dumps(
        {"model": "adapter", "messages": [empty] * 300_000 + [empty | {"content": "x"}]}
    )
    sent = [eight.encode(), *(item[0].encode() for item in LARGE.values())]
    statuses: list[int] = []

    def attack() -> None:
        for content in sent:
            response = server.client.post(CHAT, content=content)
            assert response.json()["error"]["message"]
            statuses.append(response.status_code)

    assert others_wait(server, attack) < 2.0
    assert statuses == [413] + [400] * len(LARGE)
    assert server.post().status_code == 200


def test_a_body_that_does_not_say_its_length_is_bounded_too(server: StubServer) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 65536

    response = server.client.post(CHAT, content=pieces())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("name", ["x-long", "authorization", "cookie"])
def test_long_heads_are_refused_in_openais_form(server: StubServer, name: str) -> None:
    for sent in (
        f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{name}: {'x' * 20_000}\r\n\r\n",
        f"GET /{'x' * 20_000} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: localhost\r\n" + "".join(f"h{n}: 1\r\n" for n in range(3000)),
    ):
        with connection(server) as one:
            one.sendall(sent.encode())
            status, _, found = answer(one)
            assert status == 431
            assert "requests.head_kilobytes" in found["error"]["message"]


def test_what_is_not_http_is_refused_in_openais_form(server: StubServer) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
    ):
        with connection(server) as one:
            one.sendall(sent)
            assert answer(one)[0] == 400
            assert is_closed(one)


def test_a_slow_body_is_refused_and_a_slow_head_is_ended(server: StubServer) -> None:
    with connection(server) as body, connection(server) as drip, connection(server) as silent:
        body.sendall(head(100) + b"{")
        begun = time.monotonic()
        for byte in b"GET /v1/models HTTP/1.1\r\nx-never-ends: ":
            try:
                drip.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.1)
        assert answer(drip)[0] == 408
        status, _, found = answer(body)
        assert (status, found["error"]["code"]) == (408, "request_timeout")
        assert is_closed(silent)
        assert time.monotonic() - begun < SMALL.read_seconds + 3 * _SOON


def test_a_stranger_s_body_is_not_waited_for(server: StubServer) -> None:
    with connection(server) as stranger:
        stranger.sendall(head(1_000_000, key="another-key-of-somebody"))
        assert answer(stranger)[0] == 401
        begun = time.monotonic()
        assert is_closed(stranger)  # though its body never came
        assert time.monotonic() - begun < SMALL.read_seconds + _SOON


def test_many_connections_keep_nobody_out(server: StubServer) -> None:
    with ExitStack() as stack:
        for _ in range(4 * SMALL.connections):
            stack.enter_context(connection(server))
        with httpx.Client(base_url=server.address, headers=BEARER, trust_env=False) as one:
            assert one.get("/v1/models", timeout=_SOON).status_code == 200


def test_where_every_connection_is_in_use_a_new_one_is_told(tmp_path: Path) -> None:
    busy = bounds(connections=8, read_seconds=20.0)
    with stub_server(tmp_path, busy) as server, ExitStack() as stack:
        for _ in range(busy.connections):
            one = stack.enter_context(connection(server))
            one.sendall(head(10))
        time.sleep(0.5)
        more = stack.enter_context(connection(server))
        status, headers, found = answer(more)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "requests.connections" in found["error"]["message"]


def held(server: StubServer, stack: ExitStack, count: int) -> Sequence[socket.socket]:
    """Requests whose bodies are still on their way: each holds a place."""
    found = [stack.enter_context(connection(server)) for _ in range(count)]
    for one in found:
        one.sendall(head(len(BODY)) + BODY[:5].encode())
    return found


def test_one_request_more_than_are_taken_is_told_when_to_come_again(server: StubServer) -> None:
    with ExitStack() as stack:
        waiting = held(server, stack, SMALL.in_flight)
        wait_until(lambda: server.get("/ready").json() == {"status": "full"})
        refused = server.post()
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (429, "rate_limit_exceeded")
        assert error["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert server.get("/ready").status_code == 503
        assert server.get("/health").status_code == 200
        for one in waiting:
            one.sendall(BODY[5:].encode())
        assert [answer(one)[0] for one in waiting] == [200] * len(waiting)
    assert server.get("/ready").status_code == 200
    assert server.post().status_code == 200


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_that_takes_too_long_ends(tmp_path: Path, streams: bool) -> None:
    with stub_server(tmp_path, bounds(answer_seconds=1.0)) as server:
        server.engine.answers = False
        response = server.post(stream=streams)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "answer_timeout")
        assert int(response.headers["retry-after"]) > 0
        assert [asked.left for asked in server.engine.asked] == [True]
        server.engine.answers = True
        assert server.post(stream=streams).status_code == 200


def test_a_client_that_does_not_read_its_stream_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_CUT_SECONDS", 0.5)
    monkeypatch.setattr(connections, "_CUT_SECONDS", 1.0)
    with (
        stub_server(tmp_path, bounds(answer_seconds=1.0, in_flight=2)) as server,
        ExitStack() as stack,
    ):
        server.engine.pieces, server.engine.text = 500, "x" * 20_000
        content = json.dumps(json.loads(BODY) | {"stream": True})
        for _ in range(2):
            one = stack.enter_context(connection(server))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.sendall(head(len(content)) + content.encode())
        wait_until(lambda: server.get("/ready").json() == {"status": "full"})
        wait_until(lambda: server.get("/ready").json() == {"status": "ok"})
        wait_until(lambda: len(server.connections) <= 1)  # the one that asks whether it is ready
        server.engine.pieces = 1
        assert server.post().status_code == 200


def test_a_client_that_reads_slowly_gets_all_of_its_stream(tmp_path: Path) -> None:
    with stub_server(tmp_path, bounds()) as server:
        server.engine.pieces, server.engine.text = 50, "x" * 20_000
        body = {"model": "adapter", "messages": [{"role": "user", "content": "x"}], "stream": True}
        read = 0
        with server.client.stream("POST", CHAT, json=body) as response:
            for piece in response.iter_bytes(50_000):
                read += len(piece)
                time.sleep(0.01)
        assert read > 1_000_000


def test_metrics_count_what_was_answered_and_refused(server: StubServer) -> None:
    def value(line: str) -> float:
        found = [item for item in server.get("/metrics").text.splitlines() if item.startswith(line)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    answered = f'nightloom_requests_total{{route="{CHAT}",status="200"}}'
    refused = 'nightloom_requests_total{route="other",status="401"}'
    tokens = 'nightloom_tokens_total{kind="answer",model="adapter"}'
    before = [value(answered), value(refused), value(tokens)]
    made = server.post().json()["usage"]["completion_tokens"]
    httpx.get(f"{server.address}/no/{time.time()}", trust_env=False)
    assert [value(answered), value(refused), value(tokens)] == [
        before[0] + 1, before[1] + 1, before[2] + made,
    ]  # fmt: skip
    assert value('nightloom_served_version{model="adapter"}') == 1
    kind = server.get("/metrics").headers["content-type"]
    assert kind.startswith("text/plain; version=")


def test_health_tells_a_stranger_whether_it_answers_and_no_more(server: StubServer) -> None:
    shown = httpx.get(f"{server.address}/health", trust_env=False)
    assert (shown.status_code, shown.json()) == (200, {"status": "ok"})
    assert server.get("/health").json()["models"]["adapter"]["version"] == 1


def test_tls_is_not_spoken_by_accident(server: StubServer) -> None:
    with connection(server) as one, pytest.raises((ssl.SSLError, OSError)):
        ssl.create_default_context().wrap_socket(one, server_hostname="localhost")
