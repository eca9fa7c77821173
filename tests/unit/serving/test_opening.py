"""How a server is opened: on loopback with a key or without, elsewhere with TLS; and asked."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
from pathlib import Path

import httpx
import psutil
import pytest

from flows.answers import _get
from flows.model_server import ModelServer
from tasks.services.loopback import open_directly
from tasks.serving import server as server_module
from tasks.serving.access import Access, Protection
from tests.builders.certificates import make_certificate
from tests.builders.model_server import KEY, bounds
from tests.builders.stub_server import StubServer, stub_server

DEAD = "http://127.0.0.1:9"  # a proxy that is not there
PROXIES = {name: DEAD for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy")}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0", "--no-key"], "--no-key would let everybody use the server"),
        (["--host", "::", "--no-key", "--tls-by-proxy"], "--no-key would let everybody"),
        (["--host", "0.0.0.0", "--key-file", "KEY"], "say --tls-by-proxy where a proxy"),
        (["--host", "", "--key-file", "KEY"], "every address can be reached"),
        (["--key-file", "nowhere"], "can't be read from nowhere"),
        (["--key-file", "KEY", "--tls-certificate", "KEY"], "TLS needs both"),
        (["--key-file", "KEY", "--tls-certificate", "KEY", "--tls-key", "KEY"], "TLS files can't"),
        (["--key-file", "KEY", "--tls-certificate", "no", "--tls-key", "no"], "TLS files can't"),
        (["--key-file", "KEY", "--port", "70000"], "can't listen on 127.0.0.1 port 70000"),
        (["--key-file", "KEY", "--host", "no.such.host.invalid", "--tls-by-proxy"], "can't listen"),
    ],
)
def test_what_would_be_open_or_is_not_there_is_refused_at_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    given = [str(key) if option == "KEY" else option for option in options]
    common = ["--store", ".", "--model", "adapter", "--params", "params/serving.yaml"]
    assert server_module.main([*common, *given]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "what to do: " in error


@pytest.mark.slow
def test_what_speaks_http_needs_no_torch() -> None:
    """So that health is told while a version loads, and other programs can read the wire format."""
    code = "import sys, tasks.serving.server; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_one_of_key_file_and_no_key_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        server_module.main(["--store", ".", "--model", "adapter", "--params", "x"])
    assert "--key-file --no-key" in capsys.readouterr().err


def test_without_a_key_pages_and_other_names_are_still_kept_out(tmp_path: Path) -> None:
    with stub_server(tmp_path, bounds(), access=Access(None)) as server:
        ask = {"url": server.address + "/v1/models", "trust_env": False}
        assert httpx.get(**ask).status_code == 200
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            assert httpx.get(**ask, headers=headers).status_code == 403


def test_tls_is_spoken_and_our_own_commands_know_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    certificate, key = make_certificate(tmp_path / "own")
    other, _ = make_certificate(tmp_path / "other")
    protection = Protection(True, certificate, key)
    with stub_server(tmp_path, bounds(), host="0.0.0.0", protection=protection) as server:
        assert server.address.startswith("https://127.0.0.1:")
        (tmp_path / "key").write_text(f"{KEY}\n")
        serving = ModelServer(
            pid=1, started=0, address=server.address, models=["adapter"],
            key_file=tmp_path / "key", certificate=certificate,
        )  # fmt: skip
        assert _get(serving, "/health")["models"]["adapter"]["version"] == 1
        for wrong in (other, None):
            with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
                _get(serving.model_copy(update={"certificate": wrong}), "/health")
        plain = server.address.replace("https", "http")
        with pytest.raises(OSError):  # noqa: PT011  it ends the connection in one way or another
            open_directly(f"{plain}/health", timeout_seconds=5)


def _own_address() -> str:
    """An address of this machine that others could reach."""
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET and not address.address.startswith("127.")
    ]
    if not found:
        pytest.skip("this machine has loopback alone")
    return found[0]


def test_on_all_addresses_each_is_known_by_its_number_and_names_by_params(tmp_path: Path) -> None:
    access = Access(KEY, frozenset({"llm.example.org"}))
    protection = Protection(True, tls_by_proxy=True)
    with stub_server(
        tmp_path, bounds(), access=access, host="0.0.0.0", protection=protection
    ) as server:
        port, own = httpx.URL(server.address).port, _own_address()
        server.client.base_url = f"http://{own}:{port}"
        expected = {
            f"{own}:{port}": 200, own: 200, "llm.example.org": 200, f"llm.example.org:{port}": 200,
            "127.0.0.1": 200, "evil.example": 403, "10.99.99.99": 403, f"{own}.nip.io": 403,
        }  # fmt: skip
        for host, status in expected.items():
            found = server.client.get("/v1/models", headers={"host": host})
            assert found.status_code == status, host


def test_loopback_by_ipv6_works_too(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with stub_server(tmp_path, bounds(), host="::1") as server:
        assert server.address.startswith("http://[::1]:")
        assert server.post().status_code == 200


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a key, as the examples of the docs find it."""
    private = tmp_path / ".nightloom" / "private"
    private.mkdir(parents=True)
    (private / "serve-key").write_text(f"{KEY}\n")
    return tmp_path


def example(page: str, language: str, word: str) -> str:
    """The one block of a page in a language that holds a word."""
    text = Path("docs/guides", page).read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    [found] = [block for block in blocks if word in block]
    return str(found)


def run(checkout: Path, server: StubServer, command: list[str]) -> str:
    """What a command prints in a checkout, with proxies in its environment."""
    environment = dict(os.environ) | PROXIES
    for name in ("no_proxy", "NO_PROXY"):
        environment.pop(name, None)
    said = [part.replace("http://127.0.0.1:8000", server.address) for part in command]
    done = subprocess.run(
        said, cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_docs_curl_example_is_answered(checkout: Path) -> None:
    with stub_server(checkout, bounds()) as server:
        said = run(checkout, server, ["bash", "-c", example("serving.md", "bash", "curl")])
    assert '"content":"yes"' in said


@pytest.mark.slow
def test_the_docs_example_of_openais_client_sends_the_key_and_asks_no_proxy(checkout: Path) -> None:
    with stub_server(checkout, bounds()) as server:
        code = example("serving.md", "python", "OpenAI(")
        assert run(checkout, server, [sys.executable, "-c", code]).startswith("yes ")


@pytest.mark.slow
def test_the_docs_example_of_feedback_gets_in(checkout: Path) -> None:
    answer = f"class answer:\n    id = 'chatcmpl-{'0' * 32}'\n"
    with stub_server(checkout, bounds()) as server:
        code = answer + example("feedback.md", "python", "/v1/feedback")
        run(checkout, server, [sys.executable, "-c", code])
        # The log is off, which only who has the key is told.
        line = 'nightloom_requests_total{route="/v1/feedback",status="409"} 1.0'
        assert line in server.get("/metrics").text
