"""Tokenized examples: what tokenization writes and the trainings read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.records.text import text_sha256

WEIGHTS_FILE = "weights.json"
DOCUMENTS_FILE = "documents.parquet"
HELD_OUT_DOCUMENTS_FILE = "held_out_documents.parquet"
PREFERENCES_FILE = "preferences.parquet"
HELD_OUT_PREFERENCES_FILE = "held_out_preferences.parquet"
DOCUMENT = "document"  # the variant of an example that is a piece of a document
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("slice", pa.string()),
        ("intake", pa.string()),
        ("variant", pa.string()),
        ("context", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
    ]
)
_IS_FEEDBACK = pa.field("is_feedback", pa.bool_())


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its answer: token ids, of which those from `prompt_length` on are learned.

    `variant` is `closed_book` or `passages`. Examples of one `context` show the same passages and
    are learned in one step, so that the prompt's beginning goes through the model once. A piece of
    a document is one of the variant `document`, whose prompt is what is not learned of it.
    `is_feedback` says that people gave the answer of a served question.
    """

    id: str
    slice: str
    intake: str
    variant: str
    context: str
    token_ids: tuple[int, ...]
    prompt_length: int
    is_feedback: bool = False

    @property
    def key(self) -> str:
        """Return a hash of what it holds: its tokens, and from where on they are learned."""
        return text_sha256(str(self.prompt_length), *map(str, self.token_ids))

    @property
    def supervised(self) -> int:
        """Return how many tokens are learned."""
        return len(self.token_ids) - self.prompt_length


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples to a Parquet file, in their order; it says what is feedback where any is."""
    examples = list(examples)
    has_feedback = any(example.is_feedback for example in examples)
    schema = _SCHEMA.append(_IS_FEEDBACK) if has_feedback else _SCHEMA
    rows = [
        {name: getattr(example, name) for name in schema.names}
        | {"token_ids": list(example.token_ids)}
        for example in examples
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def read_examples(path: Path) -> list[Example]:
    """Return the examples of a file that `write_examples` wrote."""
    rows = pq.read_table(path).to_pylist()
    return [Example(**row | {"token_ids": tuple(row["token_ids"])}) for row in rows]


def count_documents(pieces: Iterable[Example]) -> int:
    """Return how many documents these pieces are of; each is named `DOCUMENT#NUMBER`."""
    return len({piece.id.rpartition("#")[0] for piece in pieces})


def write_weights(folder: Path, weights: Mapping[str, float]) -> None:
    """Write the sources' weights in the training token budget beside the examples, if any have."""
    if weights:
        (folder / WEIGHTS_FILE).write_text(json.dumps(weights, sort_keys=True) + "\n", "utf-8")


def read_weights(folder: Path) -> dict[str, float]:
    """Return the weights that `write_weights` wrote into a folder; none where it wrote none."""
    path = folder / WEIGHTS_FILE
    found: dict[str, float] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found
