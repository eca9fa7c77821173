"""The columns of a source under our names, and values of other types that stand for texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.records.text import id_form

# Our columns that hold a text.
TEXT_COLUMNS = frozenset(
    {"id", "question", "answer", "prompt", "completion", "instruction", "input", "output"}
    | {"system", "system_prompt", "slice", "group", "source", "license", "text", "title"}
    | {"rejected_answer"}
)


@dataclass(frozen=True)
class Columns:
    """How columns are read: `names` maps theirs to ours.

    `as_text` are ours whose numbers and booleans are read as text. A whole number is too, wherever
    a column is mapped to one of ours that holds a text.
    """

    names: Mapping[str, str]
    as_text: frozenset[str] = frozenset()

    @property
    def change(self) -> bool:
        """Whether any row can read otherwise than it is."""
        return bool(self.names or self.as_text)

    def ours(self, name: str) -> str:
        """Return our name of a column, whose own is known in another Unicode form than NFC too."""
        return self.names.get(name) or self.names.get(id_form(name), name)

    def rename(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the row under our names, and their names of the columns that were renamed.

        Raises:
            ValueError: two of its columns get the same name.
        """
        renamed: dict[str, Any] = {}
        mapped = []
        for name, value in row.items():
            ours = self.ours(name)
            if ours != name or name in self.names:
                mapped.append(name if name in self.names else id_form(name))
                value = _mapped_value(ours, value)
            if ours in renamed:
                self._refuse_two(row, ours)
            renamed[ours] = scalar_text(value) if ours in self.as_text else value
        return renamed, tuple(mapped)

    def named_labels(
        self, row: Mapping[str, Any], labels: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Return the row with the names of the class labels that become one of our texts.

        -1 says that a row has no label, as `datasets` does.
        """
        return {
            name: _label_name(value, labels[name])
            if name in labels and self.ours(name) in TEXT_COLUMNS
            else value
            for name, value in row.items()
        }

    def _refuse_two(self, row: Mapping[str, Any], ours: str) -> None:
        both = sorted(name for name in row if self.ours(name) == ours)
        raise ValueError(
            f"columns {' and '.join(both)} are both read as {ours}: mend `columns` in params"
        )


NO_COLUMNS = Columns({})


def scalar_text(value: object) -> Any:
    """Return a number or a boolean as JSON writes it; anything else as it is."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def identifier_text(value: object) -> Any:
    """Return a whole number, of whatever type, as the text of an id; anything else as it is.

    Tables number their rows, and a column of numbers with a gap in it becomes one of floats.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _mapped_value(ours: str, value: object) -> Any:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_whole and ours in TEXT_COLUMNS else value


def _label_name(value: object, names: Sequence[str]) -> Any:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return None if value == -1 else value
