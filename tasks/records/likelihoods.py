"""Likelihoods: how likely each system finds the reference answer of each held-out record."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow
from pyarrow import parquet

LIKELIHOODS_FILE = "likelihoods.parquet"

_SCHEMA = pyarrow.schema(
    [
        ("system", pyarrow.string()),
        ("record", pyarrow.string()),
        ("slice", pyarrow.string()),
        ("log_likelihood", pyarrow.float64()),
        ("tokens", pyarrow.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The log-probability that one system gives a record's reference answer, closed book.

    `log_likelihood` is summed over the answer's tokens and its end of turn, in nats; `tokens` says
    how many these are, in the system's own tokenizer.
    """

    system: str
    record: str
    slice: str
    log_likelihood: float
    tokens: int


def write_likelihoods(path: Path, rows: Iterable[Likelihood]) -> None:
    """Write likelihoods into a Parquet file."""
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)
    parquet.write_table(table, path)


def read_likelihoods(path: Path) -> list[Likelihood]:
    """The likelihoods of a file that `write_likelihoods` wrote, in its order."""
    return [Likelihood(**row) for row in parquet.read_table(path, schema=_SCHEMA).to_pylist()]
