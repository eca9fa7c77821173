"""Servers on this machine: a free port, whether one answers, and requests past any proxy."""

import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from pathlib import Path

from tasks.services import HOST

# Without [::1]: httpx, which Prefect uses, fails on an entry in brackets.
_HOSTS = ("localhost", HOST, "::1")

_LOOK_SECONDS = 0.1
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def proxy_exemptions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `no_proxy` and `NO_PROXY` as they must be: the user's own hosts, and loopback.

    Libraries disagree on which of the two names counts, so both hold everything.
    """
    names = ("no_proxy", "NO_PROXY")
    given = [part.strip() for name in names for part in environment.get(name, "").split(",")]
    if "*" in given:  # everything goes without a proxy; beside other hosts the star means nothing
        return dict.fromkeys(names, "*")
    hosts = dict.fromkeys([*filter(None, given), *_HOSTS])
    return dict.fromkeys(names, ",".join(hosts))


def open_directly(
    request: str | urllib.request.Request,
    *,
    timeout_seconds: float,
    certificate: Path | None = None,
) -> HTTPResponse:
    """Open a URL of a server on this machine, whatever proxies the environment names.

    urllib's own reading of `no_proxy` knows no IPv6 address. A server that speaks TLS must show
    `certificate`, a PEM file, whatever name it is for.

    Raises:
        OSError: nothing answered, or not with success (urllib.error.HTTPError).
    """
    opener = _DIRECT
    if certificate is not None:
        context = ssl.create_default_context(cafile=certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be its own issuer
        https = urllib.request.HTTPSHandler(context=context)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
    response: HTTPResponse = opener.open(request, timeout=timeout_seconds)
    return response


def free_port() -> int:
    """Return a port of loopback that nothing listens on now; whoever needs it takes it at once."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for_answer(url: str, child: "subprocess.Popen[str]", seconds: float) -> bool:
    """Wait until a server answers; return False if it ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        if answers(url):
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def answers(url: str) -> bool:
    """Return whether a server on this machine answers there with success."""
    try:
        with open_directly(url, timeout_seconds=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
