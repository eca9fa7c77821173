"""Who passes the guard before Prefect's, MLflow's and a version's server, by one request each."""

import asyncio
import base64
from typing import Any

import pytest

from tasks.orchestration.guarded_server import (
    BusyRetries,
    Guard,
    Rules,
    basic_header,
    guarded_command,
)

SECRET = "nightloom:a:secret with 한글"
KNOWN = basic_header(SECRET)
OURS = {"host": "127.0.0.1:5000"}


def asked(
    headers: list[tuple[str, str]], *, method: str = "GET", path: str = "/data",
    kind: str = "http", sockets_ask: bool = False,
) -> tuple[int, dict[str, str], bool]:  # fmt: skip
    """The status and headers of the answer, and whether the application was reached."""
    reached, sent = list[bool](), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(True)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a stranger's body is not read")

    rules = Rules(lambda path: path == "/health", pages_ask=True, sockets_ask=sockets_ask)
    coded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "method": method, "path": path, "headers": coded}
    asyncio.run(Guard(app, SECRET, rules)(scope, receive, send))
    status = sent[0].get("status", 403)  # a WebSocket that is closed before it opens
    shown = {name.decode(): value.decode() for name, value in sent[0].get("headers", [])}
    return status, shown, bool(reached)


def status(headers: dict[str, str], **given: Any) -> int:
    named = [(name.lower(), value) for name, value in headers.items()]
    found, _, reached = asked(named, **given)
    assert reached == (found == 200)
    return found


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:5000", "localhost:1", "LOCALHOST", "[::1]:5000", "[::1]"]
)
def test_this_machine_by_its_names_and_the_secret_pass(host: str) -> None:
    assert status({"host": host} | KNOWN) == 200
    assert status({"host": host, "origin": f"http://{host}"} | KNOWN) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:5000", "127.0.0.1.evil.example", "localhost.evil.example",
        "127.0.0.1@evil.example", "127.0.0.1:5000:1", "[::1", "::1", "", " ", "127.0.0.2",
        "127.0.0.1/evil", "localhost,evil.example", "127.0.0.1:http", "2130706433", "0.0.0.0",
    ],
)  # fmt: skip
def test_any_other_host_is_refused_even_with_the_secret(host: str) -> None:
    assert status({"host": host} | KNOWN) == 403


def test_no_host_and_two_hosts_are_refused() -> None:
    known = ("authorization", KNOWN["Authorization"])
    assert asked([known])[0] == 403
    assert asked([("host", "127.0.0.1"), ("host", "evil.example"), known])[0] == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost:5000", "", "file://"],
)
def test_a_page_of_another_address_is_refused_even_with_the_secret(origin: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert status(OURS | KNOWN | {"origin": origin}, method=method) == 403
    assert status(OURS | {"origin": origin}, path="/health") == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_browser_that_knows_the_password_opens_links_and_loads_nothing_into_other_pages(
    site: str,
) -> None:
    fetched = OURS | KNOWN | {"sec-fetch-site": site}
    assert status(fetched | {"sec-fetch-dest": "document"}) == 200
    assert status(fetched | {"sec-fetch-dest": "document"}, method="POST") == 403
    for kind in ("image", "script", "style", "iframe", "empty"):
        assert status(fetched | {"sec-fetch-dest": kind}) == 403
    assert status(OURS | KNOWN | {"sec-fetch-site": "same-origin"}) == 200


@pytest.mark.parametrize(
    "sent",
    [
        "", "Basic", "Basic ", "Basic !!!", "Bearer " + SECRET.encode().hex(),
        KNOWN["Authorization"][:-1], "Basic YWRtaW46cGFzc3dvcmQ=",
        KNOWN["Authorization"].replace("Basic", "Bearer"), "Basic Og==",
        "Basic " + base64.b64encode(b"nightloom:").decode(),
    ],
)  # fmt: skip
def test_any_other_secret_is_refused(sent: str) -> None:
    assert status(OURS | {"authorization": sent}) == 401
    assert status(OURS | {"authorization": sent}, path="/health") == 401


def test_two_secrets_are_none() -> None:
    both = [("host", "127.0.0.1"), *[("authorization", KNOWN["Authorization"])] * 2]
    assert asked(both)[0] == 401


def test_only_what_is_open_answers_without_a_secret_and_only_when_it_is_read() -> None:
    assert status(OURS, path="/health") == 200
    assert status(OURS, path="/health", method="HEAD") == 200
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert status(OURS, path="/health", method=method) == 401
    assert status(OURS) == 401
    for path in ("/health/", "//health", "/HEALTH", "/health/../data"):
        assert status(OURS, path=path) == 401


def test_a_browser_is_told_to_ask_for_the_password_and_where_it_lies() -> None:
    found, shown, _ = asked([("host", "127.0.0.1")])
    assert (found, shown["www-authenticate"].partition(" ")[0]) == (401, "Basic")


def test_a_websocket_opens_for_the_secret_or_where_the_application_asks() -> None:
    assert status(OURS, kind="websocket") == 403
    assert status(OURS | KNOWN, kind="websocket") == 200
    assert status(OURS, kind="websocket", sockets_ask=True) == 200
    for foreign in ({"host": "evil.example"}, OURS | {"origin": "http://evil.example"}):
        assert status(foreign, kind="websocket", sockets_ask=True) == 403


def test_no_secret_stands_in_a_servers_command() -> None:
    assert SECRET not in " ".join(guarded_command("mlflow", "127.0.0.1", 5000))


def answered_after(busy: int, *, kind: str = "http") -> tuple[list[Any], int]:
    """What is sent for a body in two parts by an application that is busy `busy` times."""
    sent, asked_times = list[Any](), list[int]()
    parts = [
        {"type": "http.request", "body": b"one ", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": False},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked_times.append(1)
        scope["root_path"] = scope.get("root_path", "") + "/api"  # as a mounted application does
        read = b"".join([(await receive())["body"] for _ in range(2)])
        status = 503 if len(asked_times) <= busy else 201
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": read + scope["root_path"].encode()})
        if scope["type"] == "http" and len(asked_times) <= min(
            busy, 6
        ):  # as Starlette does, for the server's log
            raise OSError("database is locked")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return parts.pop(0)

    asyncio.run(BusyRetries(app)({"type": kind, "method": "POST"}, receive, send))
    return sent, len(asked_times)


@pytest.mark.parametrize("busy", [0, 1, 6])
def test_a_busy_application_is_asked_again_with_the_whole_body(busy: int) -> None:
    sent, times = answered_after(busy)
    assert times == busy + 1
    assert [message.get("status") for message in sent] == [201, None]
    assert sent[1]["body"] == b"one two/api"


def test_an_application_that_stays_busy_says_so_itself() -> None:
    sent, times = answered_after(99)
    assert [message.get("status") for message in sent] == [503, None], "once, with its own body"
    assert times == 7


def test_what_is_no_request_is_handed_on_as_it_is() -> None:
    assert answered_after(99, kind="websocket")[1] == 1
