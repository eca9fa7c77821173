"""What reports become in MLflow: names of metrics, params' values and the table of answers."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet

from tasks.records.predictions import BATCH_TIMES, TURN
from tasks.stage.metrics import leaves
from tasks.stage.params import read_yaml

_ALLOWED = frozenset("_-. ")

# MLflow's own limit for a key.
_CHARACTERS = 250

_DIGEST = 16


def numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield each number in nested metrics with the keys that lead to it; booleans are none."""
    for path, value in leaves(metrics):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path, float(value)


def metric_name(path: Sequence[str]) -> str:
    """Return the name of the metric that keys lead to, joined by slashes.

    MLflow allows letters and digits of any script, `_-. :/` and no key that reads as a path to
    elsewhere. Keys come from data too (a slice is a label), so what is not allowed is written as
    `:HEX:`, its code point, an empty key as `:`, and a name that is too long ends in `:` and its
    digest. Different keys have different names.
    """
    return _bounded("/".join(map(_segment, path)))


def param_name(path: Sequence[str]) -> str:
    """Return the name of the param that keys lead to: FILE.KEY, escaped as `metric_name` does.

    Keys may be anything here too: of `columns`, they are the names of somebody's columns.
    """
    return _bounded(".".join(map(_segment, path)))


def _bounded(name: str) -> str:
    """Return a name, ending in its digest where MLflow would refuse it for its length."""
    if len(name) <= _CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{name[: _CHARACTERS - _DIGEST - 1].rstrip('/')}:{digest}"


def _segment(key: str) -> str:
    """Return one key, which can't be empty, `.` or `..`, or hold a slash, in the name."""
    if set(key) == {"."}:
        return "".join(map(_escaped, key))
    return "".join(c if c.isalnum() or c in _ALLOWED else _escaped(c) for c in key) or ":"


def _escaped(character: str) -> str:
    return f":{ord(character):x}:"


# What MLflow's pages call the table.
TABLE_FILE = "answers.json"

_NOT_IN_TABLE = ("prompt_sha256", *BATCH_TIMES)


def split_table(predictions: Path) -> str:
    """Return predictions as pandas' `split` JSON, without what people can't read or misread."""
    found = parquet.read_table(predictions)
    rows = found.drop_columns([name for name in _NOT_IN_TABLE if name in found.column_names])
    columns = rows.to_pydict()
    columns["retrieved"] = ["\n".join(names) for names in columns["retrieved"]]
    # MLflow's pages group by the first column: by system alone, one answer of many would show.
    names = ["system", "mode", "record", *([TURN] if TURN in columns else [])]
    keys = zip(*(columns[name] for name in names), strict=True)
    columns = {"answer": [" / ".join(map(str, key)) for key in keys]} | columns
    data = [list(row) for row in zip(*columns.values(), strict=True)]
    return json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False)


_PARAM_CHARACTERS = 6000


def param_values(root: Path, files: Iterable[str]) -> dict[str, str]:
    """Return the values of params files as MLflow keeps them, named by `param_name`."""
    return {
        param_name((Path(file).stem, *map(str, path))): _text(value)
        for file in files
        for path, value in leaves(read_yaml(root / file))
    }


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_PARAM_CHARACTERS]
