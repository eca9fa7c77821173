"""Send one message to one address: `python -m tasks.orchestration.delivery`, asked on stdin.

What is printed, and what is told, holds no part of the address: it may be a secret. Nothing of ours
is imported, since the start counts in a channel's time limit, on a machine that a night keeps busy.
"""

import ipaddress
import json
import os
import socket
import ssl
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

_PROXY = "_proxy"


@dataclass(frozen=True)
class Delivery:
    """A message and the names of the variables that hold its address; `body` is what JSON says."""

    kind: Literal["webhook", "apprise", "ping"]
    url_variable: str
    token_variable: str | None
    title: str
    text: str
    body: dict[str, Any]

    def as_json(self) -> str:
        """Return it as the process that sends it reads it."""
        return json.dumps(asdict(self))


def main() -> None:
    """Send what stdin asks for; print why it failed, or null, as JSON."""
    try:
        error = deliver(Delivery(**json.loads(sys.stdin.read())))
    except Exception as failure:  # noqa: BLE001  libraries fail in as many ways as there are
        error = _told(failure)
    print(json.dumps({"error": error}))


def deliver(delivery: Delivery) -> str | None:
    """Send a message; return why it did not arrive, None where it did.

    An address of this machine is reached by no proxy; any other by those of the environment.
    """
    url = os.environ.get(delivery.url_variable)
    if not url:
        return f"the environment variable {delivery.url_variable} is not set"
    token = None
    if delivery.token_variable is not None:
        token = os.environ.get(delivery.token_variable)
        if not token:
            return f"the environment variable {delivery.token_variable} is not set"
    if is_loopback(_host(url)):
        for name in [name for name in os.environ if name.lower().endswith(_PROXY)]:
            del os.environ[name]
    if delivery.kind == "apprise":
        return _by_apprise(url, delivery)
    return _by_http(url, token, delivery)


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine, whatever it is called."""
    if not host:
        return False
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        found = socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):  # a name that only the proxy can resolve
        return False
    return all(_is_here(str(address[0])) for *_, address in found)


def _is_here(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _by_http(url: str, token: str | None, delivery: Delivery) -> str | None:
    """POST the notice as JSON, or GET the address of a ping; a redirect is not followed."""
    import httpx

    if urlsplit(url).scheme not in ("http", "https"):
        return f"{delivery.url_variable} holds no address that begins with http:// or https://"
    headers = {"User-Agent": "nightloom"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    with httpx.Client(timeout=None, headers=headers) as client:  # the process has a time limit
        if delivery.kind == "ping":
            answer = client.get(url)
        else:
            answer = client.post(url, json=delivery.body)
    return None if answer.is_success else f"it answered {answer.status_code}"


def _by_apprise(url: str, delivery: Delivery) -> str | None:
    import apprise

    asset = apprise.AppriseAsset(app_id="Nightloom", storage_mode="memory")
    service = apprise.Apprise(asset=asset)
    variable = delivery.url_variable
    if not service.add(url):
        return f"{variable} holds no address that apprise knows"
    sent = service.notify(
        title=delivery.title, body=delivery.text, body_format=apprise.NotifyFormat.TEXT
    )
    if sent:
        return None
    return f'apprise could not send it; `apprise -vv -t test -b test "${variable}"` says why'


def _told(error: BaseException) -> str:
    """Return an error in words of the system's own: a library's may hold the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"its certificate or TLS was refused: {cause.reason}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return f"it failed with {type(error).__name__}"


if __name__ == "__main__":
    main()
