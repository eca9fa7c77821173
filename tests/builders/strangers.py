"""Who must not get in: every route of a server is tried by each kind of stranger.

To hold another server to the same, describe it as a `Guarded`: where it listens, its routes as its
OpenAPI listing has them, what its own clients send, and the few routes that are open.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_CLOSED = (401, 403)
_EVIL = "evil.example"


@dataclass(frozen=True)
class Guarded:
    """A server that runs, and how it is used.

    `paths` is `paths` of an OpenAPI document; `more_paths` are those that it leaves out. A path's
    parameter is filled in with the example that the document gives, or with 1.
    `open_routes` answer anybody, as `GET /path`: they show no data and change nothing. For each
    stands all that it may say to a stranger.
    """

    address: str
    credentials: Mapping[str, str]
    paths: Mapping[str, Mapping[str, Any]]
    open_routes: Mapping[str, frozenset[str]]
    more_paths: frozenset[str] = field(default=frozenset())

    def routes(self) -> list[tuple[str, str]]:
        """Each path by each method, declared or not, its parameters filled in."""
        names = sorted({*self.paths, *self.more_paths})
        return [(method, re.sub(r"\{[^}]*\}", "1", name)) for name in names for method in _METHODS]

    def declared(self) -> list[tuple[str, str]]:
        """The routes that the listing declares."""
        return [
            (method.upper(), _filled(name, described.get("parameters", ())))
            for name, methods in self.paths.items()
            for method, described in methods.items()
            if method.upper() in _METHODS
        ]


def _filled(path: str, parameters: Iterable[Mapping[str, Any]]) -> str:
    for one in parameters:
        for example in one.get("schema", {}).get("examples", ())[:1]:
            path = path.replace(f"{{{one['name']}}}", str(example))
    return re.sub(r"\{[^}]*\}", "1", path)


def strangers(server: Guarded) -> dict[str, dict[str, str]]:
    """The headers of each kind of stranger; some even have the key, and come from elsewhere."""
    known = dict(server.credentials)
    return {
        "nobody": {},
        "another key": {name: value[:-1] + "~" for name, value in known.items()},
        "a password": {"authorization": "Basic YWRtaW46cGFzc3dvcmQ="},
        "another Host": known | {"host": _EVIL},
        "another Host at our port": known | {"host": f"{_EVIL}:{httpx.URL(server.address).port}"},
        "another Origin": known | {"origin": f"http://{_EVIL}"},
        "no Origin": known | {"origin": "null"},
        "another page of this machine": known | {"origin": "http://127.0.0.1:1"},
        "a page that rebound its name": {"host": _EVIL, "origin": f"http://{_EVIL}"},
    }


# These come by the right name from no page: whoever may see the open routes at all.
_MAY_SEE = ("nobody",)


def open_to_strangers(server: Guarded) -> list[str]:
    """Each route that answers a stranger otherwise than with 401 or 403, and is not open to him.

    An open route must say nothing that its entry does not hold.
    """
    found = []
    with httpx.Client(base_url=server.address, timeout=30, trust_env=False) as client:
        for name, headers in strangers(server).items():
            for method, path in server.routes():
                route = f"{method} {path}"
                response = client.request(method, path, headers=headers)
                if response.status_code in _CLOSED:
                    continue
                allowed = server.open_routes.get(route) if name in _MAY_SEE else None
                if allowed is None or response.text not in allowed:
                    found.append(f"{route} to {name}: {response.status_code} {response.text[:80]}")
    return found


def closed_to_its_own(server: Guarded) -> list[str]:
    """Each declared route that refuses whoever has the key: its refusals would prove nothing."""
    found = []
    with httpx.Client(
        base_url=server.address, headers=server.credentials, timeout=60, trust_env=False
    ) as client:
        for method, path in server.declared():
            status = client.request(method, path).status_code
            if status in (*_CLOSED, 404, 405):
                found.append(f"{method} {path}: {status}")
    return found
