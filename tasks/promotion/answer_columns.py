"""Answers in columns: of a file of predictions, what deciding needs, without an object a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, parquet

from tasks.records.predictions import check_schema
from tasks.records.text import BROKEN
from tasks.scoring.identity import Asked, split_sha256
from tasks.stage.errors import DataError


@dataclass(frozen=True)
class AnswerColumns:
    """What one system answered in one mode, a record a place, in the order of `asked`.

    `score` is the metric that was read; `is_broken` says that an answer holds bytes that are no
    character; `groundedness` is NaN where `is_grounded` says that an answer has none.
    """

    system: str
    mode: str
    asked: tuple[Asked, ...]
    slices: tuple[str, ...]
    score: NDArray[np.float64]
    is_cut: NDArray[np.bool_]
    is_broken: NDArray[np.bool_]
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
        check_schema(path, parquet.read_schema(path))
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
    table = table.sort_by([(name, "ascending") for name in ("record", "question", "reference")])
    lists = {name: table[name].to_pylist() for name in ("record", "question", "reference")}
    groundedness = table["groundedness"].combine_chunks()
    return AnswerColumns(
        system=table["system"][0].as_py(),
        mode=table["mode"][0].as_py(),
        asked=tuple(zip(*lists.values(), strict=True)),
        slices=tuple(table["slice"].to_pylist()),
        score=table[metric].to_numpy().astype(np.float64),
        is_cut=table["is_cut"].to_numpy(),
        is_broken=compute.match_substring(table["output"], BROKEN).to_numpy(),
        groundedness=groundedness.to_numpy(zero_copy_only=False).astype(np.float64),
        is_grounded=groundedness.is_valid().to_numpy(zero_copy_only=False),
    )
