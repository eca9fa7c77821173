"""What became of each row, from the line of the source that it came from on: `lineage.jsonl`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute, parquet

from tasks.curation.documents import DocumentChanges
from tasks.curation.preparation import Prepared
from tasks.curation.selection import Removals
from tasks.records.schema import CURATED_SPLITS, PLACES_FILE, read_rows
from tasks.records.withdrawals import WITHDRAWN_FILE
from tasks.stage.errors import DataError

LINEAGE_FILE = "lineage.jsonl"
_BATCH = 10_000
_COLUMNS = ["id", "intake", "line", "file", "source_line"]


@dataclass(frozen=True)
class Places:
    """Where each record came from, in the records' order."""

    table: Any

    @classmethod
    def read(cls, accepted: Path, ids: list[str]) -> "Places":
        """Return the places of the records of those ids.

        Raises:
            DataError: there are none, or a record has none.
        """
        path = accepted / PLACES_FILE
        if not path.exists():
            raise DataError(
                f"{accepted} holds no {PLACES_FILE}; expected the source line of each accepted "
                "record, without which no row can be followed back",
                "run validation again: `dvc repro validation`",
            )
        table = parquet.read_table(path, columns=_COLUMNS)
        found = compute.index_in(pyarrow.array(ids, pyarrow.string()), table["id"].combine_chunks())
        if found.null_count:
            missing = ids[int(np.flatnonzero(found.is_null().to_numpy(False))[0])]
            raise DataError(
                f"{path} does not say where {found.null_count} of {len(ids)} accepted records came "
                f"from, {missing!r} for one; expected one row an accepted record",
                "run validation again: `dvc repro validation --force`",
            )
        return cls(table.take(found))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the places, one after the other."""
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            yield from batch.to_pylist()


def lineage_rows(
    places: Places, prepared: Prepared, removals: Removals, documents: DocumentChanges
) -> Iterator[dict[str, Any]]:
    """Yield one row a record and one a document: where it came from and what became of it.

    `split` is null where `rule` says why the row was left out; `kept` is the id of the row that
    stands for it, `similarity` how alike the two are; `masked` counts what was masked, by kind.
    """
    for row, place in enumerate(places.rows()):
        removal = removals.get(row)
        kept = None if removal is None or removal.kept is None else prepared.ids[removal.kept]
        yield (
            {"kind": "record"}
            | place
            | {
                "split": None if removal else CURATED_SPLITS[prepared.splits[row]],
                "rule": removal.rule if removal else None,
                "kept": kept,
                "similarity": removal.similarity if removal else None,
                "masked": dict(prepared.masks.get(row, {})),
            }
        )
    for identifier in documents.ids:
        kept = documents.duplicates.get(identifier)
        yield {
            "kind": "document",
            "id": identifier,
            "rule": "exact_duplicate" if kept else None,
            "kept": kept,
            "masked": dict(documents.masks.get(identifier, {})),
        }


def withdrawn_lineage(accepted: Path) -> Iterator[dict[str, Any]]:
    """Yield one row an intake and one a row that was withdrawn, with the reason and the time.

    `kind` is withdrawn_intake, withdrawn_record or withdrawn_document: such a row was not accepted.
    """
    path = accepted / WITHDRAWN_FILE
    for row in read_rows(path) if path.exists() else ():
        yield row | {"kind": f"withdrawn_{str(row['kind']).removesuffix('s')}"}
