"""Tokenized examples: what tokenization writes and the trainings read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.records.hashing import text_sha256

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("slice", pa.string()),
        ("intake", pa.string()),
        ("variant", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its answer: token ids, of which those from `prompt_length` on are learned.

    `variant` is `closed_book` or `passages`.
    """

    id: str
    slice: str
    intake: str
    variant: str
    token_ids: tuple[int, ...]
    prompt_length: int

    @property
    def supervised(self) -> int:
        """How many tokens are learned."""
        return len(self.token_ids) - self.prompt_length


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples to a Parquet file, in their order."""
    rows = [
        {name: getattr(example, name) for name in _SCHEMA.names}
        | {"token_ids": list(example.token_ids)}
        for example in examples
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path, compression="zstd")


def read_examples(path: Path) -> list[Example]:
    """The examples of a file that `write_examples` wrote."""
    rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
    return [Example(**row | {"token_ids": tuple(row["token_ids"])}) for row in rows]


def choose_examples(examples: Sequence[Example], *, token_budget: int, seed: int) -> list[Example]:
    """As many examples as the budget of tokens holds: the newest intake first, then by hash.

    The same example keeps its place from night to night, whatever else comes in.
    """
    by_hash = sorted(examples, key=lambda example: text_sha256(str(seed), example.id))
    chosen: list[Example] = []
    spent = 0
    for example in sorted(by_hash, key=lambda example: example.intake, reverse=True):
        if spent + len(example.token_ids) > token_budget:
            break
        chosen.append(example)
        spent += len(example.token_ids)
    return chosen
