"""Answers in columns: of a file of predictions, what deciding needs, without an object a row."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, parquet

from tasks.records.predictions import TURN, check_schema
from tasks.records.text import BROKEN
from tasks.scoring.identity import Asked, split_sha256
from tasks.stage.errors import DataError

_BROKEN_SHARE = "is_broken"


@dataclass(frozen=True)
class AnswerColumns:
    """What one system answered in one mode, a record a place, in the order of `asked`.

    `score` is the metric that was read; `is_cut` and `is_broken` are 1 for an answer that met its
    bound, and that holds bytes that are no character; `groundedness` is NaN where `is_grounded`
    says that an answer has none. A conversation has one place, with the means over its turns.
    """

    system: str
    mode: str
    asked: tuple[Asked, ...]
    slices: tuple[str, ...]
    score: NDArray[np.float64]
    is_cut: NDArray[np.float64]
    is_broken: NDArray[np.float64]
    groundedness: NDArray[np.float64]
    is_grounded: NDArray[np.bool_]

    @property
    def sha256(self) -> str:
        """Return the hash of what was asked."""
        return split_sha256(self.asked)


def read_answer_columns(
    path: Path, metric: str, systems: Sequence[str]
) -> dict[tuple[str, str], AnswerColumns]:
    """Read the answers of some systems by system and mode, each sorted by what was asked.

    Raises:
        DataError: the file is no Parquet, or its columns are not those of predictions.
    """
    columns = [
        "system", "mode", "record", "question", "reference", "slice",
        "output", "is_cut", "groundedness", metric,
    ]  # fmt: skip
    try:
        schema = parquet.read_schema(path)
        check_schema(path, schema)
        columns += [TURN] if TURN in schema.names else []
        table = parquet.read_table(path, columns=columns, filters=[("system", "in", list(systems))])
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"{path} is no whole Parquet file ({error}); expected a table of predictions",
            "run `dvc checkout`, or `nightloom run`, which evaluates again",
        ) from error
    names = np.array(table["system"].to_pylist(), dtype=object)
    modes = np.array(table["mode"].to_pylist(), dtype=object)
    keys = dict.fromkeys(zip(names.tolist(), modes.tolist(), strict=True))
    return {
        (system, mode): _answer_columns(
            table.filter(pyarrow.array((names == system) & (modes == mode))), metric
        )
        for system, mode in keys
    }


def _answer_columns(table: pyarrow.Table, metric: str) -> AnswerColumns:
    """Return one system's answers in one mode, sorted."""
    if TURN in table.column_names:
        table = _by_conversation(table)
    table = table.sort_by([(name, "ascending") for name in ("record", "question", "reference")])
    lists = {name: table[name].to_pylist() for name in ("record", "question", "reference")}
    groundedness = table["groundedness"].combine_chunks()
    return AnswerColumns(
        system=table["system"][0].as_py(),
        mode=table["mode"][0].as_py(),
        asked=tuple(zip(*lists.values(), strict=True)),
        slices=tuple(table["slice"].to_pylist()),
        score=table[metric].to_numpy().astype(np.float64),
        is_cut=table["is_cut"].cast(pyarrow.float64()).to_numpy(),
        is_broken=_broken(table).to_numpy(),
        groundedness=groundedness.to_numpy(zero_copy_only=False).astype(np.float64),
        is_grounded=groundedness.is_valid().to_numpy(zero_copy_only=False),
    )


def _broken(table: pyarrow.Table) -> pyarrow.ChunkedArray:
    """Return 1 for each answer that holds bytes that are no character, or its mean over turns."""
    if _BROKEN_SHARE in table.column_names:
        return table[_BROKEN_SHARE]
    return compute.match_substring(table["output"], BROKEN).cast(pyarrow.float64())


def _by_conversation(table: pyarrow.Table) -> pyarrow.Table:
    """Return a row a conversation: turns are not independent, so what is drawn and counted is whole
    conversations. What was asked is all of their turns.
    """
    table = table.append_column(_BROKEN_SHARE, _broken(table))
    table = table.set_column(
        table.column_names.index("is_cut"), "is_cut", table["is_cut"].cast(pyarrow.float64())
    )
    texts = ("question", "reference", "slice")
    means = [name for name, kind in zip(table.column_names, table.schema.types, strict=True)
             if kind == pyarrow.float64()]  # fmt: skip
    ordered = table.sort_by([("record", "ascending"), (TURN, "ascending")])
    found = ordered.group_by("record", use_threads=False).aggregate(
        [(name, "list") for name in texts] + [(name, "mean") for name in means]
    )
    columns = {"record": found["record"]} | {name: found[f"{name}_mean"] for name in means}
    for name in ("question", "reference"):
        joined = [json.dumps(turns) for turns in found[f"{name}_list"].to_pylist()]
        columns[name] = pyarrow.chunked_array([joined])
    columns["slice"] = pyarrow.chunked_array([[one[0] for one in found["slice_list"].to_pylist()]])
    for name in ("system", "mode"):
        columns[name] = pyarrow.chunked_array([[table[name][0].as_py()] * len(found)])
    return pyarrow.table(columns)
