"""The accepted files, written a batch at a time: documents, then the records that name them."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tasks.validation.batches import mark_missing
from tasks.validation.expectations import Judge
from tasks.validation.features import (
    DOCUMENT_FEATURES,
    RECORD_FEATURES,
    Row,
    read_document,
    read_record,
)
from tasks.validation.judging import Verdict, accept, judge_rows
from tasks.validation.merging import Digests, id_digests, take_census
from tasks.validation.places import Origins, PlacesWriter
from tasks.validation.profile import Profiler
from tasks.validation.quarantine import Quarantine
from tasks.validation.totals import Totals

DOCUMENTS, RECORDS = "documents", "records"


@dataclass(frozen=True)
class Acceptance:
    """Where rows come from and where they go."""

    intakes: Sequence[Path]
    batch_rows: int
    accepted: Path
    quarantine: BinaryIO
    profiler: Profiler

    def documents(self, judge: Judge) -> tuple[Verdict, Digests]:
        """The verdict on the documents, and the digests of the accepted ones' ids, sorted."""
        census = take_census(self.intakes, f"{DOCUMENTS}.jsonl")
        verdict = Verdict(DOCUMENTS, Totals(judge.suite), superseded=census.superseded)
        rows = map(read_document, census.rows())
        judged = judge_rows(
            judge, rows, DOCUMENT_FEATURES, batch_rows=self.batch_rows, verdict=verdict
        )
        found = [id_digests(())]
        with (self.accepted / f"{DOCUMENTS}.jsonl").open("wb") as stream:
            for batch in accept(judged, Quarantine(self.quarantine, DOCUMENTS), verdict):
                stream.writelines(_lines(batch))
                self.profiler.add_documents(batch)
                found.append(id_digests(row.features["id"] for row in batch))
                del batch  # the next one is read before this name is given to it
        return verdict, np.sort(np.concatenate(found))

    def records(self, judge: Judge, known: Digests) -> Verdict:
        """The verdict on the records; `known` are the digests of the accepted documents."""
        census = take_census(self.intakes, f"{RECORDS}.jsonl")
        verdict = Verdict(RECORDS, Totals(judge.suite), superseded=census.superseded)
        judged = judge_rows(
            judge,
            map(read_record, census.rows()),
            RECORD_FEATURES,
            batch_rows=self.batch_rows,
            verdict=verdict,
            prepare=partial(mark_missing, known=known),
        )
        path = self.accepted / f"{RECORDS}.jsonl"
        with path.open("wb") as stream, closing(PlacesWriter(self.accepted)) as places:
            for batch in accept(judged, Quarantine(self.quarantine, RECORDS), verdict):
                stream.writelines(_lines(batch))
                self.profiler.add_records(batch)
                _write_places(places, batch)
                del batch
        return verdict


def _write_places(places: PlacesWriter, batch: Sequence[Row]) -> None:
    for intake, found in groupby(batch, key=lambda row: row.intake):
        rows = list(found)
        ids = [row.features["id"] for row in rows]
        places.write(Origins.read(intake, RECORDS), ids, [row.number for row in rows])


def _lines(batch: Sequence[Row]) -> list[bytes]:
    return [row.line for row in batch if row.line is not None]
