"""Every answer as compact JSON, for the page to show side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from tasks.evaluation.grids import modes_of, shown_metric, shown_mode, shown_slice
from tasks.records.predictions import BATCH_TIMES, Prediction

_DIGITS = 4
# Shown as texts or not at all; every other field of a prediction is a score of its own.
_NOT_SCORES = {
    "system", "mode", "record", "slice", "question", "reference", "output", "prompt_sha256",
    "retrieved", *BATCH_TIMES,
}  # fmt: skip
_SCORES = tuple(item.name for item in fields(Prediction) if item.name not in _NOT_SCORES)


class _Pool:
    """Each text once, known by its place."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))


def pager_data(
    metrics: Mapping[str, Any], predictions: Sequence[Prediction], passages: Mapping[str, str]
) -> str:
    """The JSON that `report.js` reads, in which nothing can end a script element.

    `texts` holds each text once, and the rest names them by place. `records` are [id, slice,
    question]; `answers` are [record, mode, system, reference, output, passages, scores], the first
    three by place, passages as places in `passages`, which are [id, text or null].
    """
    texts, shown = _Pool(), _Pool()
    systems = {name: place for place, name in enumerate(metrics["systems"])}
    modes = {name: place for place, name in enumerate(modes_of(metrics["systems"]))}
    records: dict[str, int] = {}
    rows: list[list[int]] = []
    answers: list[list[Any]] = []
    for row in predictions:
        if row.record not in records:
            records[row.record] = len(rows)
            names = (row.record, shown_slice(row.slice), row.question)
            rows.append([texts.place(name) for name in names])
        answers.append(
            [
                records[row.record],
                modes[row.mode],
                systems[row.system],
                texts.place(row.reference),
                texts.place(row.output),
                [shown.place(name) for name in row.retrieved],
                [_number(getattr(row, name)) for name in _SCORES],
            ]
        )
    primary = metrics["primary"]
    content = {
        "metric": _SCORES.index(primary["metric"]),
        "mode": modes[primary["mode"]],
        "scores": list(map(shown_metric, _SCORES)),
        "systems": list(systems),
        "modes": list(map(shown_mode, modes)),
        "records": rows,
        "passages": _texts_of(shown, passages, texts),
        "answers": answers,
        "texts": list(texts.places),
    }
    return _script_safe(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _texts_of(shown: _Pool, passages: Mapping[str, str], texts: _Pool) -> list[list[Any]]:
    """Each passage's id and the place of its text, None where its text is not at hand."""
    return [
        [name, texts.place(passages[name]) if name in passages else None] for name in shown.places
    ]


def _number(value: Any) -> Any:
    """A score in few digits: whole numbers whole, truth values and null as they are."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else round(value, _DIGITS)


def _script_safe(text: str) -> str:
    """JSON as it may stand in a page: no `</script>`, no `<!--`, no entity."""
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
