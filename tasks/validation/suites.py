"""The user's rules: suites of expectations in YAML, checked before any data is read."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml
from tasks.validation.features import DOCUMENT_FEATURES, RECORD_FEATURES
from tasks.validation.figures import SET_FIGURES

Severity = Literal["fatal", "quarantine", "warning"]
_NULL, _BETWEEN = "expect_column_values_to_be_null", "expect_column_values_to_be_between"
_REGEX = "expect_column_values_to_match_regex"
# Without these a row that later stages can't read would pass.
_NEEDED = {
    "records": {(_NULL, "json_fault"), (_NULL, "schema_fault"), (_BETWEEN, "id_rows")}
    | {(_REGEX, "roles"), (_BETWEEN, "missing_documents")},
    "documents": {(_NULL, "json_fault"), (_NULL, "schema_fault"), (_BETWEEN, "id_rows")},
    "set": set(),
}
_COLUMNS = {"records": RECORD_FEATURES, "documents": DOCUMENT_FEATURES, "set": SET_FIGURES}
_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list", "column_set")


class _Entry(BaseModel):
    """One rule as its file has it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    type: str
    kwargs: dict[str, Any]
    severity: Severity
    notes: str


@dataclass(frozen=True)
class Rule:
    """One expectation: its name in reports, its type and arguments in Great Expectations."""

    name: str
    type: str
    kwargs: dict[str, Any]
    severity: Severity
    notes: str
    file: Path

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the features that the rule looks at."""
        found = [self.kwargs[name] for name in _COLUMN_ARGUMENTS if name in self.kwargs]
        return tuple(str(y) for x in found for y in (x if isinstance(x, list) else [x]))

    @property
    def expected(self) -> str:
        """Return what the rule asks for, in a few words."""
        arguments = {k: v for k, v in self.kwargs.items() if k not in _COLUMN_ARGUMENTS}
        texts = [f"{name} {value!r}" for name, value in arguments.items()]
        return f"{self.name} ({', '.join(texts)})" if texts else self.name

    @property
    def place(self) -> str:
        """Return the file and the rule's name, as errors give it."""
        return f"{self.file}: rule {self.name}"


@dataclass(frozen=True)
class Suite:
    """The rules of one file; `name` is records, documents or set."""

    name: str
    file: Path
    rules: tuple[Rule, ...]

    def without(self, names: Iterable[str]) -> "Suite":
        """Return the suite with some of its rules off."""
        off = set(names)
        return Suite(self.name, self.file, tuple(x for x in self.rules if x.name not in off))


def read_suites(folder: Path) -> dict[str, Suite]:
    """Return the suites `records`, `documents` and `set` of a folder.

    Raises:
        ConfigError: a file is missing, or a rule has another form, an unknown feature, or is one
            that can't be left out. Whether Great Expectations knows it is asked later.
    """
    return {name: _read(name, folder / f"{name}.yaml") for name in _COLUMNS}


def nearest(found: str, known: Sequence[str]) -> str:
    """Return a hint: the nearest known names, or all of them where none is near."""
    near = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"


def _read(name: str, file: Path) -> Suite:
    content = read_yaml(file)
    _refuse_doubles(file)
    suite = Suite(name, file, tuple(_rule(key, entry, file) for key, entry in content.items()))
    for rule in suite.rules:
        _check_columns(rule, name)
        allowed = ("fatal", "warning") if name == "set" else ("fatal", "quarantine", "warning")
        if rule.severity not in allowed:
            raise ConfigError(
                f"{rule.place} has severity {rule.severity!r}; expected {' or '.join(allowed)}, "
                "because a whole set can't go to quarantine",
                f"mend {file}",
            )
    _check_needed(suite)
    return suite


def _rule(name: str, entry: Any, file: Path) -> Rule:
    try:
        read = _Entry.model_validate(entry)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg'].lower()}" for x in details)
        raise ConfigError(
            f"{file}: rule {name} is not of the form type, kwargs, severity, notes: {lines}",
            f"mend {file}; its other rules show the form",
        ) from None
    return Rule(str(name), read.type, read.kwargs, read.severity, read.notes, file)


def _refuse_doubles(file: Path) -> None:
    """Refuse a key that stands twice: YAML keeps the later one, and a rule would be gone."""
    node = yaml.compose(file.read_text(encoding="utf-8"))
    names = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{file} gives rule {twice[0]} twice; only the last would count",
            "give one of them another name",
        )


def _check_columns(rule: Rule, suite: str) -> None:
    known = _COLUMNS[suite]
    for column in rule.columns:
        if column not in known:
            raise ConfigError(
                f"{rule.place} speaks of column {column!r}, which is no feature of {suite}; "
                f"{nearest(column, known)}",
                f"mend {rule.file}",
            )


def _check_needed(suite: Suite) -> None:
    held: Mapping[tuple[str, str], Rule] = {
        (rule.type, column): rule for rule in suite.rules for column in rule.columns
    }
    for kind, column in sorted(_NEEDED[suite.name]):
        rule = held.get((kind, column))
        if rule is None or rule.severity == "warning":
            found = "has no such rule" if rule is None else f"rule {rule.name} only warns"
            raise ConfigError(
                f"{suite.file} must refuse rows by {kind} on {column}, and {found}: later stages "
                "can't read rows that break it",
                f"bring it back, e.g. `git checkout -- {suite.file}`",
            )
