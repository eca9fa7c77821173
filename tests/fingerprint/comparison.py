"""Two fingerprints held against each other, but for a written list of renamed keys."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from tests.fingerprint.values import Value

_SHOWN_LINES = 12


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str


class RenamedKey(_Entry):
    """A pattern in keys, and what stands for it now (with \\1 for a group)."""

    old: str
    new: str


class RenamedValue(_Entry):
    """A pattern in the text values of some keys, by the new names of these, and its new text."""

    key: str
    old: str
    new: str


class Expected(_Entry):
    """Keys, by their new names, that may come, go or differ."""

    key: str


class Renames(BaseModel):
    """What may differ between two fingerprints, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: list[RenamedKey]
    values: list[RenamedValue]
    expected: list[Expected]

    @classmethod
    def read(cls, path: Path) -> "Renames":
        """Read the list."""
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Difference:
    """One key that is not the same in both."""

    key: str
    kind: Literal["gone", "new", "changed"]
    before: Value
    after: Value

    def lines(self) -> list[str]:
        """Return it for people; of long texts, the lines that differ."""
        head = f"{self.kind}: {self.key}"
        if self.kind != "changed":
            return [head]
        before, after = str(self.before).splitlines(), str(self.after).splitlines()
        if len(before) < 2 and len(after) < 2:
            return [head, f"  before {self.before!r}", f"  after  {self.after!r}"]
        changed = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
        more = [f"  and {len(changed) - _SHOWN_LINES} more lines"] * (len(changed) > _SHOWN_LINES)
        return [head, *(f"  {line}" for line in changed[:_SHOWN_LINES]), *more]


@dataclass
class Compared:
    """What differs, what was expected to, and which entries of the list matched nothing."""

    differences: list[Difference] = field(default_factory=list)
    expected: list[Difference] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def compare(before: Mapping[str, Value], after: Mapping[str, Value], renames: Renames) -> Compared:
    """Hold the older fingerprint, renamed, against the newer one.

    Raises:
        ValueError: two keys get one new name.
    """
    used: set[str] = set()
    old = rename(before, renames, used)
    found = Compared()
    for key in sorted(old.keys() | after.keys()):
        # 1 and 1.0 are two values, and so are 1 and true.
        if key in old and key in after and repr(old[key]) == repr(after[key]):
            continue
        kind: Literal["gone", "new", "changed"] = (
            "changed" if key in old and key in after else "gone" if key in old else "new"
        )
        difference = Difference(key, kind, old.get(key), after.get(key))
        excuses = [entry.key for entry in renames.expected if re.search(entry.key, key)]
        used |= {f"expected {text}" for text in excuses}
        (found.expected if excuses else found.differences).append(difference)
    found.unused = [text for text in _texts(renames) if text not in used]
    return found


def rename(before: Mapping[str, Value], renames: Renames, used: set[str]) -> dict[str, Value]:
    """Return the older fingerprint by its new names; `used` gets the entries that matched."""
    renamed: dict[str, Value] = {}
    for old_key, old_value in before.items():
        key, value = old_key, old_value
        for entry in renames.keys:
            key, count = re.subn(entry.old, entry.new, key)
            used |= {f"key {entry.old}"} if count else set()
        for item in renames.values:
            if isinstance(value, str) and re.search(item.key, key):
                value, count = re.subn(item.old, item.new, value)
                used |= {f"value {item.old} of {item.key}"} if count else set()
        if key in renamed:
            raise ValueError(f"the list of renames makes two keys {key}")
        renamed[key] = value
    return renamed


def _texts(renames: Renames) -> Sequence[str]:
    keys = [f"key {entry.old}" for entry in renames.keys]
    values = [f"value {entry.old} of {entry.key}" for entry in renames.values]
    return [*keys, *values, *(f"expected {entry.key}" for entry in renames.expected)]
