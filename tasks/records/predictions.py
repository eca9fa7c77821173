"""Predictions: what every system answered in every mode, and how each answer scored."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow
from pyarrow import parquet

PREDICTIONS_FILE = "predictions.parquet"
# A student and its twin, which had no teacher: folders below a student's own, and systems.
Role = Literal["student", "twin"]
ROLES: tuple[Role, Role] = ("student", "twin")
MODES = ("closed_book", "retrieved", "oracle")
SCORE_NAMES = ("exact_match", "token_f1", "rouge_l", "chrf")

_TEXTS = ("system", "mode", "record", "slice", "question", "reference", "output", "prompt_sha256")
_SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in _TEXTS]
    + [("retrieved", pyarrow.list_(pyarrow.string()))]
    + [(name, pyarrow.float64()) for name in (*SCORE_NAMES, "latency_ms")]
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of one system in one mode.

    `retrieved` are the ids of the passages in the prompt, best first; scores are in [0, 1].
    """

    system: str
    mode: str
    record: str
    slice: str
    question: str
    reference: str
    output: str
    prompt_sha256: str
    retrieved: tuple[str, ...]
    exact_match: float
    token_f1: float
    rouge_l: float
    chrf: float
    latency_ms: float

    def score(self, name: str) -> float:
        """The score of that name."""
        return float(getattr(self, name))


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions into a Parquet file."""
    table = pyarrow.Table.from_pylist([asdict(row) for row in predictions], schema=_SCHEMA)
    parquet.write_table(table, path)


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file that `write_predictions` wrote, in its order."""
    rows = parquet.read_table(path, schema=_SCHEMA).to_pylist()
    return [Prediction(**row | {"retrieved": tuple(row["retrieved"])}) for row in rows]
