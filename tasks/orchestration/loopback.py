"""Connections within this machine, which no proxy may see."""

import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse

# Without [::1]: httpx, which Prefect uses, fails on an entry in brackets.
_HOSTS = ("localhost", "127.0.0.1", "::1")
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


def open_directly(request: str | urllib.request.Request, *, timeout_seconds: float) -> HTTPResponse:
    """Open a URL of a server on this machine, whatever proxies the environment names.

    urllib's own reading of `no_proxy` knows no IPv6 address.

    Raises:
        OSError: nothing answered, or not with success (urllib.error.HTTPError).
    """
    response: HTTPResponse = _DIRECT.open(request, timeout=timeout_seconds)
    return response
