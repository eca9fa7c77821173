"""Accepted rows in; splits without duplicates, documents and a lineage out."""

import logging
import sys
from collections.abc import Container
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from tasks.curation.corrections import correction_documents
from tasks.curation.documents import curate_documents
from tasks.curation.empty_splits import empty_split_error
from tasks.curation.leakage import check_leakage
from tasks.curation.lineage import LINEAGE_FILE, Places, lineage_rows, withdrawn_lineage
from tasks.curation.params import CurationParams, Params
from tasks.curation.preparation import Prepared, prepare
from tasks.curation.report import REPORT_FILE, curation_metrics, refusal, render_report
from tasks.curation.selection import Removals, hold_out_feedback, select, written_splits
from tasks.curation.steps import Step, find_steps, steps_error
from tasks.records.schema import (
    Document,
    record_line,
    stream_documents,
    stream_records,
    write_rows,
)
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.pages import plain_markdown

LOGGER = logging.getLogger(__name__)
_STEPS = 4


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
        GateError: a step takes more of its rows than its bound allows.
        DataError: a split is empty, or an accepted record has no place that it came from.
    """
    curves = Curves(paths.scratch)
    (paths.scratch / REPORT_FILE).unlink(missing_ok=True)  # an earlier night's
    accepted = verified(paths.accepted)
    prepared = prepare(stream_records(accepted / "records.jsonl"), params.curation, paths.scratch)
    places = Places.read(accepted, prepared.ids)
    curves.progress(1, _STEPS)
    prepared, removals = hold_out_feedback(prepared, select(prepared, params.curation))
    steps = find_steps(prepared, removals)
    for step in steps:
        LOGGER.info("%s", step.told)
    _check(steps, prepared, removals, params.curation, paths.scratch / REPORT_FILE)
    curves.progress(2, _STEPS)
    with output_folders(paths.curated, paths.curation_report) as (curated, report):
        corrections = _corrections(accepted, prepared, removals)
        needed = _write_splits(curated, prepared, removals, corrections)
        documents = curate_documents(
            accepted / "documents.jsonl",
            curated / "documents.jsonl",
            needed,
            corrections.values(),
            params.curation.personal_data,
        )
        lineage = lineage_rows(places, prepared, removals, documents)
        write_rows(curated / LINEAGE_FILE, chain(lineage, withdrawn_lineage(accepted)))
        curves.progress(3, _STEPS)
        leakage = check_leakage(curated, prepared.measure, params.curation)
        metrics = curation_metrics(prepared, removals, steps, documents, leakage)
        write_metrics(report, metrics)
        text = render_report(metrics, steps, prepared, removals)
        (report / REPORT_FILE).write_text(plain_markdown(text), encoding="utf-8")
    prepared.rows.remove()
    prepared.own_texts.remove()
    if leakage.total:
        LOGGER.warning(
            "%d leaks, which stop promotion: see %s",
            leakage.total,
            (paths.curation_report / REPORT_FILE).absolute(),
        )
    curves.progress(_STEPS, _STEPS)


def _corrections(accepted: Path, prepared: Prepared, removals: Removals) -> dict[str, Document]:
    """Return what people have called right, as documents, where the data have documents at all."""
    if next(stream_documents(accepted / "documents.jsonl"), None) is None:
        return {}
    return correction_documents(prepared, removals)


def _write_splits(
    curated: Path, prepared: Prepared, removals: Removals, corrections: Container[str]
) -> set[str]:
    """Return the ids of the documents that the written records refer to.

    A record that is a document too refers to it.
    """
    needed: set[str] = set()
    by_id = sorted(range(len(prepared.ids)), key=prepared.ids.__getitem__)
    splits = written_splits(prepared, removals)
    streams = [(curated / f"{split}.jsonl").open("wb") for split in splits]
    try:
        for row in by_id:
            if row in removals:
                continue
            record, line = prepared.rows.record(row), prepared.rows.line(row)
            if record.id in corrections:
                line = record_line(replace(record, documents=(record.id,)))
            streams[prepared.splits[row]].write(line)
            needed.update(record.documents)
    finally:
        for stream in streams:
            stream.close()
    return needed


def _check(
    steps: list[Step],
    prepared: Prepared,
    removals: Removals,
    params: CurationParams,
    report: Path,
) -> None:
    """Stop the night where a step takes too much, whose report then lies in scratch, or where a
    split is empty.
    """
    error = steps_error(steps, prepared, removals, params, report)
    if error is not None:
        told = refusal(error.message, steps, prepared, removals)
        report.write_text(plain_markdown(told), encoding="utf-8")
        raise error
    empty = empty_split_error(prepared, removals, params)
    if empty is not None:
        raise empty


if __name__ == "__main__":
    sys.exit(run_stage("curation", Params, Paths, run))
