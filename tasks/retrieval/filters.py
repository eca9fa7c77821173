"""Filters: which passages a search may find, by what is known of their documents."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from tasks.lexical.bm25 import Positions
from tasks.lexical.chunking import Passage
from tasks.stage.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Where:
    """Which passages may be found: for each field the values allowed; an empty one allows all.

    `document` is the id of a passage's document; the other fields are the document's own.
    """

    source: frozenset[str] = frozenset()
    license: frozenset[str] = frozenset()
    title: frozenset[str] = frozenset()
    document: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, conditions: Sequence[str]) -> "Where":
        """Return the filter that `FIELD=VALUE` conditions spell; a field given twice allows both
        values.

        Raises:
            ConfigError: a condition is of another form or names another field.
        """
        known = [field.name for field in fields(cls)]
        values: dict[str, set[str]] = {name: set() for name in known}
        for condition in conditions:
            name, equals, value = condition.partition("=")
            if not equals or name not in values:
                raise ConfigError(
                    f"the filter {condition!r} can't be used; expected FIELD=VALUE, where FIELD "
                    f"is one of {', '.join(known)}",
                    "write, for example, source=handbook",
                )
            values[name].add(value)
        return cls(**{name: frozenset(allowed) for name, allowed in values.items()})


class PassageColumns:
    """Where in an index the passages with a certain value stand, looked up once for each field."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._places: dict[str, dict[str, list[int]]] = {}

    def matching(self, where: Where) -> Positions | None:
        """Return the positions that a filter allows, ascending; None where it allows every one.

        Raises:
            ConfigError: no passage has a value that the filter names, or none has all of them.
        """
        allowed: Positions | None = None
        for field in fields(where):
            wanted: frozenset[str] = getattr(where, field.name)
            if wanted:
                found = self._having(field.name, wanted)
                allowed = found if allowed is None else np.intersect1d(allowed, found)
        if allowed is not None and not len(allowed):
            raise ConfigError(
                "no passage fulfils all conditions of the filter together; without passages the "
                "answer would rest on nothing",
                "leave out a condition",
            )
        return allowed

    def _having(self, name: str, wanted: frozenset[str]) -> Positions:
        if name not in self._places:
            places: dict[str, list[int]] = {}
            for position, passage in enumerate(self._passages):
                places.setdefault(getattr(passage, name), []).append(position)
            self._places[name] = places
        known = self._places[name]
        missing = sorted(wanted - known.keys())
        if missing:
            shown = ", ".join(repr(value) for value in sorted(known)[:5])
            raise ConfigError(
                f"no passage has the {name} {missing[0]!r}; the index has {len(known)}, such as "
                f"{shown}",
                f"name a {name} that the documents have",
            )
        return np.array(sorted(at for value in wanted for at in known[value]), dtype=np.int64)
