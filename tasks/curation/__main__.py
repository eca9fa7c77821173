"""Accepted rows in; splits without duplicates, documents and a lineage out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.curation.params import Params
from tasks.curation.report import figures, write_lineage, write_report
from tasks.curation.selection import SPLITS, Fate, select, select_documents
from tasks.records.files import read_documents, read_records, write_documents, write_records
from tasks.records.normalization import normalized_document, normalized_record
from tasks.stage.command import output, run_stage
from tasks.stage.errors import DataError
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified

_STEPS = 3


@dataclass(frozen=True)
class Paths:
    """Where the stage reads and writes."""

    accepted: Path
    curated: Path = output()
    curation_report: Path = output()
    scratch: Path = Path()


def run(params: Params, paths: Paths) -> None:
    """Write the splits, the documents, the lineage and the report.

    Raises:
        DataError: a split is empty.
    """
    curves = Curves(paths.scratch)
    accepted = verified(paths.accepted)
    records = [normalized_record(item) for item in read_records(accepted / "records.jsonl")]
    found = [normalized_document(item) for item in read_documents(accepted / "documents.jsonl")]
    curves.progress(1, _STEPS)
    fates = select(records, params.curation)
    documents = select_documents(found, (fate.record for fate in fates if fate.split))
    curves.progress(2, _STEPS)
    _check(fates)
    with output_folders(paths.curated, paths.curation_report) as (curated, report):
        for split in SPLITS:
            chosen = (fate.record for fate in fates if fate.split == split)
            write_records(curated / f"{split}.jsonl", chosen)
        write_documents(curated / "documents.jsonl", documents)
        write_lineage(curated / "lineage.jsonl", fates)
        metrics = figures(fates, len(documents), len(found) - len(documents))
        write_metrics(report, metrics)
        write_report(report, fates, metrics)
    curves.progress(_STEPS, _STEPS)


def _check(fates: Sequence[Fate]) -> None:
    for split in SPLITS:
        if not any(fate.split == split for fate in fates):
            kept = sum(fate.split is not None for fate in fates)
            raise DataError(
                f"the {split} split is empty: {kept} of {len(fates)} records stay; expected some "
                "in each split, because training, early stopping and evaluation need one each",
                f"take more rows in, or raise curation.{split}_share (train: lower the other two)",
            )


if __name__ == "__main__":
    sys.exit(run_stage("curation", Params, Paths, run))
