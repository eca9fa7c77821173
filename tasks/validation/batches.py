"""Rows in batches that fit in memory, and each batch as a flat frame."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from tasks.validation.features import TEXT_FEATURES, Row
from tasks.validation.merging import Digests, id_digests

_BATCH_BYTES = 64 << 20


def batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Lists of at most `size` rows, fewer where their lines come to 64 MB before."""
    batch: list[Row] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += len(row.raw) + len(row.line or b"")
        if len(batch) >= size or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def frame(batch: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """One row of features a row, by its position in the batch; what a row lacks is null."""
    content = {}
    for name in columns:
        values = [row.features.get(name) for row in batch]
        kind = "object" if name in TEXT_FEATURES else "float64"
        content[name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(content)


def mark_missing(batch: Sequence[Row], known: Digests) -> None:
    """Set each record's `missing_documents`; `known` are digests of documents, sorted."""
    names = [name for row in batch for name in row.names]
    digests = id_digests(names)
    places = np.searchsorted(known, digests)
    missing = np.ones(len(names), dtype=np.int64)
    inside = places < len(known)
    missing[inside] = known[places[inside]] != digests[inside]
    ends = np.cumsum([len(row.names) for row in batch])
    totals = np.r_[0, np.cumsum(missing)]
    for row, end in zip(batch, ends.tolist(), strict=True):
        if row.line is not None:
            count = totals[end] - totals[end - len(row.names)]
            row.features["missing_documents"] = int(count)
