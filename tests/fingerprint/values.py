"""The values of a fingerprint: a flat mapping, and the written rule of what is left out of it."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Value = str | int | float | bool | None
LEFT_OUT = "(left out)"
# Kept of hashes, ids, times and stamps is that they are there.
_ANY = [
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA-256"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)?"), "TIME"),
]
RULE = Path(__file__).with_name("left_out.yaml")


def read_rule(path: Path = RULE) -> list[re.Pattern[str]]:
    """Return the patterns of keys whose values are left out."""
    return [re.compile(item["key"]) for item in yaml.safe_load(path.read_text(encoding="utf-8"))]


def digest(content: bytes | str) -> str:
    """Return the SHA-256 of a content."""
    content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(content).hexdigest()


def flatten(content: Any, key: str) -> Iterator[tuple[str, Value]]:
    """Yield every leaf of nested JSON; names are joined by dots, and places in a list counted."""
    if isinstance(content, Mapping) and content:
        for name, value in content.items():
            yield from flatten(value, f"{key}.{name}")
    elif isinstance(content, list) and content:
        if all(isinstance(item, int | float) for item in content) and len(content) > 8:
            yield key, f"{len(content)} numbers {digest(json.dumps(content))}"
            return
        for place, item in enumerate(content):
            yield from flatten(item, f"{key}.{place}")
    else:
        yield key, content if isinstance(content, Value) else json.dumps(content)


def plain(text: str) -> str:
    """Return a text without its hashes, ids and times."""
    for pattern, stands_for in _ANY:
        text = pattern.sub(stands_for, text)
    return text


def shape(content: Any, key: str) -> Iterator[str]:
    """Yield the names in nested JSON, each with the kind of its value."""
    if isinstance(content, dict) and content:
        for name, value in content.items():
            yield from shape(value, f"{key}.{plain(name)}")
    elif isinstance(content, list):
        yield f"{key}: list"
        for item in content:
            yield from shape(item, f"{key}[]")
    else:
        yield f"{key}: {type(content).__name__}"


@dataclass
class Values:
    """What is known of one commit so far; a value under a key of the rule is left out.

    `names` are texts that differ from run to run, such as the name of a folder, and what is
    written instead of each.
    """

    names: dict[str, str] = field(default_factory=dict)
    found: dict[str, Value] = field(default_factory=dict)
    rule: list[re.Pattern[str]] = field(default_factory=read_rule)

    def add(self, key: str, value: Value) -> None:
        """Add one value.

        Raises:
            ValueError: the key has one already.
        """
        key = self.renamed(key)
        if key in self.found:
            raise ValueError(f"two values of {key}")
        if any(pattern.search(key) for pattern in self.rule):
            value = LEFT_OUT
        self.found[key] = self.renamed(value) if isinstance(value, str) else value

    def add_nested(self, key: str, content: Any) -> None:
        """Add every leaf of nested JSON."""
        for name, value in flatten(content, key):
            self.add(name, value)

    def renamed(self, text: str) -> str:
        """Return a text without the names that differ from run to run, longest first."""
        for name in sorted(self.names, key=len, reverse=True):
            text = text.replace(name, self.names[name])
        return text
