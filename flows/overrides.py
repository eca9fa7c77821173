"""Overrides of params: `--set FILE.KEY=VALUE` and presets, which are lists of them."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml

# Not params of a stage: where things lie is the same in every workspace.
_FIXED = {"paths"}


@dataclass(frozen=True)
class Override:
    """One param and the value it gets; `key` is FILE.NAME, deeper names joined by more dots."""

    key: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> "Override":
        """The override that `FILE.KEY=VALUE` stands for; the value is YAML.

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
    """The text that `Override.parse` reads back: YAML's form of a number is not always Python's."""
    return f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"


def without(file: str, texts: Iterable[str]) -> list[str]:
    """The overrides that are not of this file of params."""
    return [text for text in texts if not text.strip().startswith(f"{file}.")]


def shown(value: Any) -> str:
    """A value as people read it: numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_overrides(root: Path, preset: str | None, texts: Sequence[str]) -> tuple[Override, ...]:
    """The overrides of a preset, then the given ones; the last one of a key wins.

    Raises:
        ConfigError: there is no such preset, or no such param.
    """
    items = [*_preset(root, preset), *(Override.parse(text) for text in texts)]
    chosen = {item.key: item for item in items}
    known = _known_keys(root)
    for key in chosen:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise ConfigError(
                f"params/ holds no {key!r}; the nearest are {', '.join(near) or 'none'}",
                "name a param as FILE.KEY, FILE being a file of params/ without .yaml",
            )
    return tuple(chosen[key] for key in sorted(chosen))


def digest(overrides: Iterable[Override]) -> str:
    """Twelve hex digits that stand for a set of overrides."""
    text = json.dumps({item.key: item.value for item in overrides}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def apply(content: dict[str, Any], file: str, overrides: Iterable[Override]) -> bool:
    """Whether any of the overrides is of this file; its content then carries them."""
    changed = False
    for item in overrides:
        stem, *keys = item.key.split(".")
        if stem == file:
            place = content
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = item.value
            changed = True
    return changed


def _preset(root: Path, name: str | None) -> list[Override]:
    if name is None:
        return []
    folder = root / "params" / "presets"
    path = folder / f"{name}.yaml"
    if not path.exists():
        names = ", ".join(sorted(item.stem for item in folder.glob("*.yaml"))) or "none"
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
    """Every name in nested mappings, the mappings themselves included."""
    keys: list[str] = []
    for name, value in content.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _keys(value, f"{prefix}{name}.")
    return keys
