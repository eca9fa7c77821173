"""Who may ask: by the server's key, the host that a request names, and the page it comes from."""

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stage.errors import ConfigError

# Anybody may see whether the server lives and answers, and no more.
OPEN_PATHS = frozenset({"/health", "/ready"})
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# A name, or an IPv6 address in brackets; then maybe a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s\[\]:@/?#]+))(?::\d{1,5})?", re.IGNORECASE)
_FEWEST_CHARACTERS = 16


@dataclass(frozen=True)
class Protection:
    """What a server is asked to do against strangers: demand a key, and speak TLS.

    `tls_by_proxy` is the word that a proxy before the server speaks TLS.
    """

    demands_key: bool
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_by_proxy: bool = False

    @property
    def has_tls(self) -> bool:
        """Return whether the server itself speaks TLS."""
        return self.tls_certificate is not None

    def check(self, host: str) -> None:
        """Refuse what would open the server to strangers.

        Raises:
            ConfigError: others than this machine can reach `host`, and no key is demanded or
                nothing encrypts it on its way; or only one of the TLS files is named.
        """
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError(
                "only one of --tls-certificate and --tls-key is given; TLS needs both",
                "name both PEM files",
            )
        if is_loopback(host):
            return
        if not self.demands_key:
            raise ConfigError(
                f"--no-key would let everybody use the server who can reach {host or 'it'}; it is "
                "for 127.0.0.1 alone",
                "leave out --no-key, or leave out --host",
            )
        if not self.has_tls and not self.tls_by_proxy:
            raise ConfigError(
                f"{host or 'every address'} can be reached from other machines, and without TLS "
                "the key and all questions could be read on their way",
                "name --tls-certificate and --tls-key, or say --tls-by-proxy where a proxy before "
                "this server speaks TLS",
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on `host`.

    A name that can't be resolved is none; listening there fails with the reason.
    """
    try:
        found = socket.getaddrinfo(host or None, 0, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return all(_address(str(item[4][0])).is_loopback for item in found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found


def read_key(path: Path) -> str:
    """Return the key in a file.

    Raises:
        ConfigError: there is no such file, or what it holds can't be sent as a key.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the server's key can't be read from {path}: {error}",
            "write such a line into it; `nightloom serve` makes the file where there is none",
        ) from None
    if len(key) < _FEWEST_CHARACTERS or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{path} holds no key; expected one line of at least {_FEWEST_CHARACTERS} letters, "
            "digits and signs without a space",
            "write such a line into it; `nightloom serve` makes the file where there is none",
        )
    return key


@dataclass(frozen=True)
class Denied:
    """Why a request is not let in: an HTTP status, a code for programs, and a message."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class Access:
    """Who is let in; `key` is None where none is demanded, `hosts` are names of this server."""

    key: str | None
    hosts: frozenset[str] = frozenset()

    def denial(self, scope: Mapping[str, Any]) -> Denied | None:
        """Return why an ASGI request is not let in, None where it is.

        A page of another site can let its own name mean this machine: its requests name that host,
        or an origin that is not this server.
        """
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        keys = _values(scope, b"authorization")
        if len(hosts) != 1 or not self._is_ours(hosts[0], scope):
            return Denied(
                403,
                "foreign_host",
                f"this server is not {_shown(hosts)}; ask it by its address, or let its owner add "
                "the name to hosts in params/serving.yaml",
            )
        if any(_authority(origin) != hosts[0].lower() for origin in origins):
            return Denied(
                403, "foreign_origin", f"pages of {_shown(origins)} may not use this server"
            )
        if self.key is None or (not keys and _is_open(scope)):
            return None
        return self._key_denial(keys)

    def knows(self, scope: Mapping[str, Any]) -> bool:
        """Return whether a request that was let in came with the key, where one is demanded."""
        return self.key is None or bool(_values(scope, b"authorization"))

    def _key_denial(self, sent: list[str]) -> Denied | None:
        assert self.key is not None
        kind, _, given = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
        known = hmac.compare_digest(given.strip().encode("latin-1"), self.key.encode())
        if kind.lower() == "bearer" and known:
            return None
        what = "another key" if sent else "no key"
        return Denied(
            401,
            "invalid_api_key",
            f"{what} was sent; expected the header `Authorization: Bearer KEY`, KEY as in "
            ".nightloom/private/serve-key of the checkout that serves",
        )

    def _is_ours(self, host: str, scope: Mapping[str, Any]) -> bool:
        """Return whether a Host header names this server: a port is not looked at.

        The address that a connection came in at is ours: a page can't let a number mean another.
        """
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        own = str((scope.get("server") or ("",))[0])
        known = {*_LOOPBACK_NAMES, own.lower(), *(name.lower() for name in self.hosts)}
        return (found[1] or found[2]).lower() in known


def _is_open(scope: Mapping[str, Any]) -> bool:
    return scope["method"] == "GET" and scope["path"] in OPEN_PATHS


def _values(scope: Mapping[str, Any], name: bytes) -> list[str]:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return [value.decode("latin-1") for known, value in headers if known == name]


def _authority(origin: str) -> str:
    """Return the host and port of an origin, empty where it has none (`null`)."""
    return origin.lower().partition("://")[2]


def _shown(values: list[str]) -> str:
    return repr(", ".join(values)[:200]) if values else "without a Host header"
