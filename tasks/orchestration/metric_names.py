"""Names under which MLflow takes any metric: allowed, and never the same for two of them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ALLOWED = frozenset("_-. ")
# MLflow's own limit for a key.
_CHARACTERS = 250
_DIGEST = 16


def numbers(
    metrics: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every number in nested metrics with the keys that lead to it; truth values are none."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from numbers(value, (*path, name))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, name), float(value)


def metric_name(path: Sequence[str]) -> str:
    """The name of the metric that keys lead to, joined by slashes.

    MLflow allows letters and digits of any script, `_-. :/` and no key that reads as a path to
    elsewhere. Keys come from data too (a slice is a label), so what is not allowed is written as
    `:HEX:`, its code point, an empty key as `:`, and a name that is too long ends in `:` and its
    digest. Different keys have different names.
    """
    name = "/".join(map(_segment, path))
    if len(name) <= _CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{name[: _CHARACTERS - _DIGEST - 1].rstrip('/')}:{digest}"


def _segment(key: str) -> str:
    """One key, which can't be empty, `.` or `..`, or hold a slash, in the name."""
    if set(key) == {"."}:
        return "".join(map(_escaped, key))
    return "".join(c if c.isalnum() or c in _ALLOWED else _escaped(c) for c in key) or ":"


def _escaped(character: str) -> str:
    return f":{ord(character):x}:"
