"""Params that a night has otherwise than the checkout: by a preset and by `--set`."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.stage.errors import ConfigError
from tasks.stage.params import new_key, read_yaml

# Not params of a night: where things lie, and who is told, is the same in every workspace.
_FIXED = {"notify", "paths", "retention"}


@dataclass(frozen=True)
class Override:
    """One param and the value it gets; `key` is FILE.NAME, deeper names joined by more dots."""

    key: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Return the override that `FILE.KEY=VALUE` stands for; the value is YAML.

        Raises:
            ConfigError: the text has another form, or its value is not YAML.
        """
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigError(
                f"override {text!r} has no value; expected FILE.KEY=VALUE",
                "write e.g. --set finetuning.learning_rate=1.0e-4",
            )
        try:
            return cls(key.strip(), yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(
                f"the value of override {text!r} is not YAML: {error}", "quote it as YAML asks"
            ) from None


def override_text(key: str, value: Any) -> str:
    """Return the text that `Override.parse` reads back; YAML has numbers in a form of its own."""
    return f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"


def without_file(file: str, texts: Iterable[str]) -> list[str]:
    """Return the overrides that are not of this file of params."""
    return [text for text in texts if not text.strip().startswith(f"{file}.")]


def shown_value(value: Any) -> str:
    """Return a value as people read it: numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_overrides(root: Path, preset: str | None, texts: Sequence[str]) -> tuple[Override, ...]:
    """Return the overrides of a preset, then the given ones; the last one of a key wins.

    Raises:
        ConfigError: there is no such preset, or no such param.
    """
    items = [*_preset(root, preset), *(Override.parse(text) for text in texts)]
    chosen = {item.key: item for item in items}
    known = _known_keys(root)
    given = [name for item in chosen.values() for name in _keys({item.key: item.value}, "")]
    entries = tuple(name for name in (*known, *given) if name.endswith("."))
    for key in chosen:
        if key not in known and not (entries and key.startswith(entries)):
            if (new := new_key(key)) is not None:
                raise ConfigError(f"params/ holds no {key!r}", f"this param is called {new} now")
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise ConfigError(
                f"params/ holds no {key!r}; the nearest are {', '.join(near) or 'none'}",
                "name a param as FILE.KEY, FILE being a file of params/ without .yaml",
            )
    return tuple(chosen[key] for key in sorted(chosen))


def overrides_digest(overrides: Iterable[Override]) -> str:
    """Return twelve hex digits that stand for a set of overrides."""
    text = json.dumps({item.key: item.value for item in overrides}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def apply_overrides(content: dict[str, Any], file: str, overrides: Iterable[Override]) -> bool:
    """Put the overrides of this file into its content, and return whether there were any."""
    ours = [item for item in overrides if item.key.startswith(f"{file}.")]
    for item in ours:
        _, *keys, last = item.key.split(".")
        place: Any = content
        for key in keys:
            place = _inside(place, key, item)
        place[last] = deepcopy(item.value)  # a later override may change what is in it
    return bool(ours)


def _inside(place: Any, key: str, item: Override) -> Any:
    """Return the entry of that name in a list, else the section, made where it is not there."""
    if isinstance(place, list):
        found = next((entry for entry in place if entry.get("name") == key), None)
    else:
        found = place.setdefault(key, {})
    if not isinstance(found, dict | list):
        raise ConfigError(
            f"override {item.key!r}: there is no {key!r} to look into",
            "name an entry of a list by its name, e.g. ingestion.sources.python_docs.limit",
        )
    return found


def _preset(root: Path, name: str | None) -> list[Override]:
    if name is None:
        return []
    path = root / "params" / "presets" / f"{name}.yaml"
    if not path.exists():
        names = ", ".join(sorted(item.stem for item in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(
            f"there is no preset {name!r}; found {names}", "name one, or write params/presets/"
        )
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(content, list):
        return [Override.parse(str(text)) for text in content]
    return [Override(key, value) for key, value in read_yaml(path).items()]


def _known_keys(root: Path) -> list[str]:
    keys: list[str] = []
    for path in sorted((root / "params").glob("*.yaml")):
        if path.stem not in _FIXED:
            keys += _keys(read_yaml(path), f"{path.stem}.")
    return keys


def _keys(content: Mapping[str, Any], prefix: str) -> list[str]:
    """Return every name in nested mappings, the mappings themselves included.

    An entry of a list that has a name gives its own with a dot at the end: what is in it may be
    left out there, so that any key below it is one.
    """
    keys: list[str] = []
    for name, value in content.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _keys(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            names = (entry.get("name") for entry in value if isinstance(entry, dict))
            keys += [f"{prefix}{name}.{entry}." for entry in names if entry]
    return keys
