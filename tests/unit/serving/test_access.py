"""Who is let in: by key, Host and Origin; and what may be opened to others at all."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving.access import Access, Protection, is_loopback, read_key
from tasks.stage.errors import ConfigError
from tests.builders.model_server import KEY

ACCESS = Access(KEY, frozenset({"Llm.Example.org"}))
OWN = ("127.0.0.1:8000", "localhost", "LOCALHOST:9", "[::1]:8000", "192.168.7.5:8000",
       "llm.example.org", "LLM.example.org:443")  # fmt: skip
FOREIGN = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io",
           "evil.example@localhost", "localhost/evil", "192.168.7.6", "0.0.0.0", "", " ", "[::1",
           "localhost:8000:1", "localhost#", "a.llm.example.org", "localhost.")  # fmt: skip


def scope(path: str = "/v1/models", method: str = "GET", **headers: str | list[str]) -> Any:
    """A request to a server that listens on every address, on the connection to one of them."""
    given = {"host": "127.0.0.1:8000"} | headers
    pairs = [
        (name.encode(), value.encode("latin-1"))
        for name, values in given.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return {"path": path, "method": method, "headers": pairs, "server": ("192.168.7.5", 8000)}


def status(**headers: Any) -> int:
    denied = ACCESS.denial(scope(**headers))
    return 200 if denied is None else denied.status


def test_the_key_alone_opens() -> None:
    assert status(authorization=f"Bearer {KEY}") == 200
    assert status(authorization=f"bearer   {KEY}") == 200


@pytest.mark.parametrize(
    "sent",
    ["", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}",
     f"Bearer {KEY.upper()}", f"Bearer {KEY} {KEY}", f"Token {KEY}", "Bearer \xff\xfe",
     [f"Bearer {KEY}", f"Bearer {KEY}"], ["Bearer x", f"Bearer {KEY}"]],
)  # fmt: skip
def test_anything_else_does_not(sent: str | list[str]) -> None:
    assert status(authorization=sent) == 401


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_no_other_text_is_the_key(sent: str) -> None:
    assert status(authorization=f"Bearer {sent}") == (200 if sent.strip() == KEY else 401)


@pytest.mark.parametrize("host", OWN)
def test_names_and_addresses_of_this_server_are_known_at_any_port(host: str) -> None:
    assert status(host=host, authorization=f"Bearer {KEY}") == 200


@pytest.mark.parametrize("host", [*FOREIGN, ["localhost", "localhost"], []])
def test_other_hosts_are_refused_even_with_the_key(host: str | list[str]) -> None:
    assert status(host=host, authorization=f"Bearer {KEY}") == 403
    denied = ACCESS.denial(scope("/health", host=host))
    assert denied is not None
    assert denied.code == "foreign_host"


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:3000", "http://127.0.0.1", "null", "", "file://",
     "http://localhost:8000", "chrome-extension://127.0.0.1:8001"],
)  # fmt: skip
def test_other_origins_are_refused_even_with_the_key(origin: str) -> None:
    for path in ("/v1/models", "/health"):
        denied = ACCESS.denial(scope(path, origin=origin, authorization=f"Bearer {KEY}"))
        assert denied is not None
        assert (denied.status, denied.code) == (403, "foreign_origin")


def test_its_own_origin_is_none_of_others() -> None:
    for origin in ("http://127.0.0.1:8000", "https://127.0.0.1:8000"):
        assert status(origin=origin, authorization=f"Bearer {KEY}") == 200


def test_without_a_key_hosts_and_origins_are_still_looked_at() -> None:
    access = Access(None)
    assert access.denial(scope()) is None
    assert access.denial(scope(host="evil.example")) is not None
    assert access.denial(scope(origin="http://evil.example")) is not None


def test_open_paths_are_open_to_get_alone_and_show_a_key_that_is_wrong() -> None:
    for path, method in itertools.product(("/health", "/ready"), ("GET", "POST", "PUT", "DELETE")):
        denied = ACCESS.denial(scope(path, method))
        assert (denied is None) == (method == "GET")
    assert ACCESS.denial(scope("/health", authorization="Bearer wrong")) is not None
    for path in ("/health/", "//health", "/healthz", "/metrics", "/", ""):
        assert ACCESS.denial(scope(path)) is not None


def test_who_has_the_key_is_known() -> None:
    assert ACCESS.knows(scope("/health", authorization=f"Bearer {KEY}"))
    assert not ACCESS.knows(scope("/health"))
    assert Access(None).knows(scope("/health"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("127.1", True), ("localhost", True), ("::1", True),
     ("2130706433", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False),
     ("", False), ("10.0.0.1", False), ("fe80::1", False), ("no.such.host.invalid", False),
     ("a" * 300, False)],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_can_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "10.0.0.1"])
def test_what_others_can_reach_needs_a_key_and_tls(host: str) -> None:
    pem = Path("x.pem")
    with pytest.raises(ConfigError, match="--no-key would let everybody use the server"):
        Protection(False, pem, pem).check(host)
    with pytest.raises(ConfigError, match="--no-key"):
        Protection(False, tls_by_proxy=True).check(host)
    with pytest.raises(ConfigError, match="say --tls-by-proxy where a proxy"):
        Protection(True).check(host)
    Protection(True, pem, pem).check(host)
    Protection(True, tls_by_proxy=True).check(host)


def test_on_loopback_neither_is_needed_and_half_a_tls_is_refused() -> None:
    Protection(False).check("127.0.0.1")
    for one in (Protection(True, Path("x.pem")), Protection(True, None, Path("x.pem"))):
        with pytest.raises(ConfigError, match="only one of --tls-certificate and --tls-key"):
            one.check("127.0.0.1")


@pytest.mark.parametrize("content", ["", "\n", "short", "a key with spaces in it", "k\x00" * 20])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match="can't be read"):
        read_key(path)
    path.write_text(content)
    with pytest.raises(ConfigError, match="holds no key"):
        read_key(path)
    path.write_text(f"{KEY}\n")
    assert read_key(path) == KEY
