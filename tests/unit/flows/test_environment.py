import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import requests

from flows.credentials import mlflow_secret_file, private_folder, secret_file
from flows.environment import find_stores, set_environment, shell_lines
from flows.process_file import this_process
from flows.servers import Services, server_secret
from tasks.services.loopback import open_directly, proxy_exemptions
from tasks.stage.errors import ConfigError

AUTH = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose folder and process say nothing yet."""
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "DVC_", "MLFLOW_")) or "proxy" in name.lower():
            monkeypatch.delenv(name)
    # What the tests set in this process goes with them.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    made = tmp_path / "a checkout, 100% ours #1"
    (made / ".dvc").mkdir(parents=True)
    (made / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    (made / "prefect.yaml").touch()
    (made / "dvc.yaml").write_text("stages: {}\n")
    return made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_secret_lies_where_only_its_owner_can_read_it(checkout: Path) -> None:
    umask = os.umask(0)
    try:
        path = secret_file(checkout)
    finally:
        os.umask(umask)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert mode(path.parent.parent) & 0o022 == 0
    assert len(path.read_text().strip().partition(":")[2]) >= 32


def test_commands_at_once_agree_on_one_secret(checkout: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: secret_file(checkout).read_text(), range(8)))
    assert len(found) == 1
    assert [path.name for path in private_folder(checkout).iterdir()] == ["prefect-auth"]


@pytest.fixture
def services(checkout: Path) -> Services:
    """Servers of this checkout that this process keeps."""
    pid, started = this_process()
    where = {"prefect": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:2"}
    kept = Services(pid=pid, started=started, **where)
    (checkout / ".nightloom").mkdir(exist_ok=True)
    kept.write(checkout)
    return kept


def credentials() -> tuple[str | None, str | None]:
    return os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")


def test_mlflows_clients_get_a_secret_of_its_own(checkout: Path, services: Services) -> None:
    set_environment(checkout)
    user, password = credentials()
    assert f"{user}:{password}" == mlflow_secret_file(checkout).read_text().strip()
    assert password not in secret_file(checkout).read_text()
    assert mode(mlflow_secret_file(checkout)) == 0o600
    # Known by its address, it is the checkout's own, and not a stranger's store.
    os.environ["MLFLOW_TRACKING_URI"] = services.mlflow
    set_environment(checkout)
    assert credentials() == (user, password)
    assert find_stores(checkout).artifacts is not None


@pytest.mark.parametrize("uri", ["https://mlflow.example", "http://127.0.0.1:3", "databricks"])
def test_a_store_of_the_users_own_gets_no_password_of_ours(
    checkout: Path, services: Services, uri: str
) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    set_environment(checkout)
    assert credentials() == (None, None)
    assert find_stores(checkout).tracking_uri == uri
    os.environ.update(MLFLOW_TRACKING_USERNAME="me", MLFLOW_TRACKING_PASSWORD="mine")
    set_environment(checkout)
    assert credentials() == ("me", "mine")
    # Nor does it where a shell still has ours from `nightloom env`.
    user, _, password = mlflow_secret_file(checkout).read_text().strip().partition(":")
    os.environ.update(MLFLOW_TRACKING_USERNAME=user, MLFLOW_TRACKING_PASSWORD=password)
    set_environment(checkout)
    assert credentials() == (None, None)


def test_a_password_for_another_store_is_not_sent_to_ours(checkout: Path) -> None:
    os.environ.update(MLFLOW_TRACKING_USERNAME="me", MLFLOW_TRACKING_PASSWORD="mine")
    set_environment(checkout)
    assert "mine" not in credentials()


@pytest.mark.slow
def test_a_shell_knows_the_server_that_is_up_and_shows_no_password(
    checkout: Path, services: Services
) -> None:
    lines = shell_lines(checkout)
    found = evaluated(lines, dict(os.environ))
    set_environment(checkout)
    assert found["MLFLOW_TRACKING_URI"] == services.mlflow
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    assert tuple(found[name] for name in names) == credentials()
    assert str(credentials()[1]) not in "\n".join(lines)


@pytest.mark.parametrize("name", ["private", "private/prefect-auth"])
def test_a_secret_that_was_open_to_others_is_refused(checkout: Path, name: str) -> None:
    secret_file(checkout)
    path = checkout / ".nightloom" / name
    path.chmod(mode(path) | 0o044)
    with pytest.raises(ConfigError, match=r"has the mode 0[67]44; expected .* act as this user"):
        set_environment(checkout)


def test_a_secret_of_another_user_is_refused(checkout: Path) -> None:
    path = secret_file(checkout)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        set_environment(checkout)


def test_a_state_folder_open_to_a_group_is_closed_and_serves_on(checkout: Path) -> None:
    (checkout / ".nightloom").mkdir()
    (checkout / ".nightloom").chmod(0o777)
    private_folder(checkout)
    assert mode(checkout / ".nightloom") == 0o755


def test_servers_and_clients_of_a_checkout_get_its_secret(checkout: Path) -> None:
    set_environment(checkout)
    assert {os.environ[name] for name in AUTH} == {secret_file(checkout).read_text().strip()}


def test_a_server_of_the_users_own_gets_neither_our_secret_nor_our_address(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "PREFECT_API_URL", "https://prefect.example/api")
    monkeypatch.setitem(os.environ, "PREFECT_API_AUTH_STRING", "me:mine")
    set_environment(checkout)
    assert os.environ["PREFECT_API_URL"] == "https://prefect.example/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "me:mine"
    assert "PREFECT_SERVER_API_AUTH_STRING" not in os.environ
    # The servers that `up` starts all the same are closed by a secret of their own.
    assert server_secret(checkout) == secret_file(checkout).read_text().strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTH)
def test_a_secret_that_the_user_has_set_is_the_one_of_both_sides(
    checkout: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, name, "me:mine")
    lines = shell_lines(checkout)
    set_environment(checkout)
    assert {os.environ[side] for side in AUTH} == {"me:mine"}
    assert evaluated(lines, os.environ | {name: "me:mine"})[AUTH[0]] == "me:mine"


@pytest.mark.slow
def test_a_shell_that_reads_the_lines_has_the_settings_and_shows_no_secret(checkout: Path) -> None:
    bare = dict(os.environ)
    lines = shell_lines(checkout)
    set_environment(checkout)
    # MLflow's is of use only while its server is up.
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        del os.environ[name]
    added = {name: value for name, value in os.environ.items() if bare.get(name) != value}
    assert {*AUTH, "DVC_SITE_CACHE_DIR", "PREFECT_HOME", "no_proxy"} <= added.keys()
    found = evaluated(lines, bare)
    assert {name: found[name] for name in added} == added
    assert os.environ[AUTH[0]] not in "\n".join(lines)


def evaluated(lines: list[str], environment: dict[str, str]) -> dict[str, str]:
    """The environment of a shell that has read the lines."""
    code = "import os; print('\\0'.join(a + '\\1' + b for a, b in os.environ.items()))"
    script = "\n".join([*lines, f'exec {sys.executable} -c "{code}"'])
    done = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    pairs = (item.split("\1") for item in done.stdout.removesuffix("\n").split("\0"))
    return {name: value for name, value in pairs}


def dvc(folder: Path, **settings: str) -> str:
    """Where DVC, called plainly, keeps its site cache."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "doctor"],
        cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    [line] = [text for text in done.stdout.splitlines() if "site_cache_dir" in text]
    return line.partition(": ")[2]


@pytest.mark.slow
def test_plain_dvc_keeps_what_it_unpickles_where_nobody_else_can_write(
    checkout: Path, tmp_path: Path
) -> None:
    set_environment(checkout)
    private = str(private_folder(checkout))
    assert dvc(checkout).startswith(private)
    del os.environ["DVC_SITE_CACHE_DIR"]  # as in a shell of the user's
    assert dvc(checkout).startswith(private)
    inside = checkout / "docs"
    inside.mkdir()
    assert dvc(inside).startswith(private)
    moved = tmp_path / "moved"
    shutil.move(checkout, moved)
    set_environment(moved)
    del os.environ["DVC_SITE_CACHE_DIR"]
    assert dvc(moved).startswith(str(private_folder(moved)))


def test_a_site_cache_that_the_users_config_names_stays(checkout: Path, tmp_path: Path) -> None:
    local = checkout / ".dvc" / "config.local"
    local.write_text(f"[core]\n    site_cache_dir = {tmp_path / 'mine'}\n")
    before = local.read_text()
    set_environment(checkout)
    assert local.read_text() == before


class Recorder(BaseHTTPRequestHandler):
    """Answers everything, and notes what it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def recording(host: str) -> Iterator[tuple[int, list[str]]]:
    """A server's port, and what it was asked."""
    asked: list[str] = []
    handler = type("Handler", (Recorder,), {"asked": asked})
    made = (Server6 if ":" in host else ThreadingHTTPServer)((host, 0), handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made.server_port, asked
    finally:
        made.shutdown()
        made.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_nothing_on_this_machine_is_asked_by_a_proxy(
    checkout: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = "127.0.0.1" if host == "localhost" else host.strip("[]")
    with recording(bound) as (port, asked), recording("127.0.0.1") as (proxy_port, by_proxy):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setitem(os.environ, name, f"http://127.0.0.1:{proxy_port}")
        monkeypatch.setitem(os.environ, "no_proxy", "intranet.example")
        url = f"http://{host}:{port}/"
        # As a process has it that did not go through us, a proxy gets what is asked.
        assert httpx.get(url).status_code == 200
        assert by_proxy
        by_proxy.clear()
        asked.clear()
        set_environment(checkout)
        with open_directly(url, timeout_seconds=5) as response:
            assert response.status == 200
        assert httpx.get(url).status_code == 200
        assert requests.get(url, timeout=5).status_code == 200
        assert (len(asked), by_proxy) == (3, [])
        # What the user exempted stays exempt, and the rest of the world goes by the proxy.
        assert httpx.get("http://elsewhere.example/").status_code == 200
        assert by_proxy == ["http://elsewhere.example/"]
        assert "intranet.example" in os.environ["NO_PROXY"].split(",")


def test_a_user_who_exempts_everything_still_does() -> None:
    assert set(proxy_exemptions({"NO_PROXY": "*"}).values()) == {"*"}


def test_exempting_twice_adds_nothing() -> None:
    once = proxy_exemptions({"no_proxy": "a.example, b.example"})
    assert once["no_proxy"] == "a.example,b.example,localhost,127.0.0.1,::1"
    assert proxy_exemptions(once) == once


@pytest.mark.parametrize(
    "given",
    ["sqlite:///mlflow.db", "sqlite:///file:/srv/m.db?mode=ro&uri=true", "sqlite:///:memory:",
     "mlruns", "./mlruns", "file:mlruns", "file://mlruns", "file:./mlruns"],
)  # fmt: skip
def test_a_store_that_counts_from_where_a_command_runs_is_refused(
    given: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow makes a folder `file:` or `mlruns` wherever it is called."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    with pytest.raises(ConfigError, match="expected an absolute path"):
        find_stores(checkout)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgres://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql+psycopg://u@h/db", "postgresql+psycopg://u@h/db"),
        ("sqlite:////srv/m.db", "sqlite:////srv/m.db"),
        ("https://mlflow.example", "https://mlflow.example"),
        ("databricks", "databricks"),
    ],
)
def test_a_store_of_the_users_is_opened_by_the_driver_that_is_here(
    given: str, used: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert find_stores(checkout).tracking_uri == used
