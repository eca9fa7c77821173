"""Raw rows in, accepted rows and a report out."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from tasks.records.files import write_documents, write_records
from tasks.records.record import Document, Record
from tasks.stage.command import output, run_stage
from tasks.stage.errors import DataError
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders
from tasks.validation.merging import Merged, Placed, Quarantined, intake_folders, merge
from tasks.validation.params import Params, ValidationParams
from tasks.validation.places import Origins, PlacesWriter
from tasks.validation.report import Verdict, write_quarantine, write_report
from tasks.validation.rows import parse_document, parse_record
from tasks.validation.rules import (
    Rule,
    breaches,
    document_features,
    document_rules,
    record_features,
    record_rules,
)

T = TypeVar("T")
_STEPS = 4


@dataclass(frozen=True)
class Paths:
    """Where the stage reads and writes."""

    raw: Path
    accepted: Path = output()
    validation_report: Path = output()
    scratch: Path = Path()


def run(params: Params, paths: Paths) -> None:
    """Write the accepted rows and the report.

    Raises:
        DataError: too many rows break a rule, or too few are left.
    """
    curves = Curves(paths.scratch)
    folders = intake_folders(paths.raw)
    documents = merge(folders, "documents.jsonl", lambda row, _: parse_document(row))
    records = merge(folders, "records.jsonl", parse_record)
    curves.progress(1, _STEPS)
    with output_folders(paths.accepted, paths.validation_report) as (accepted, report):
        site = report / "data_docs"
        document_verdict = _judge(
            "documents",
            documents,
            document_features(documents.rows),
            document_rules(params.validation),
            site / "documents",
        )
        curves.progress(2, _STEPS)
        good_documents = {row.value.id for row in document_verdict.accepted}
        record_verdict = _judge(
            "records",
            records,
            record_features(records.rows, good_documents),
            record_rules(params.validation),
            site / "records",
        )
        curves.progress(3, _STEPS)
        verdicts = (record_verdict, document_verdict)
        for folder in (paths.scratch, report):
            write_quarantine(folder, verdicts)
        _check(record_verdict, params.validation)
        _check(document_verdict, params.validation)
        _write(accepted, report, record_verdict, document_verdict, len(folders))
        _write_places(accepted, folders, record_verdict.accepted)
    curves.progress(_STEPS, _STEPS)


def _judge(
    name: str, merged: Merged[T], frame: pd.DataFrame, rules: Sequence[Rule], site: Path
) -> Verdict[T]:
    """Which rows stand and which go to quarantine, with every rule that they break."""
    reasons: dict[int, list[tuple[str, str]]] = {}
    of_the_set: list[str] = []
    for breach in breaches(name, frame, rules, site) if len(frame) else []:
        rule = breach.rule
        for row, value in breach.rows.items():
            reason = f"{rule.column} is {value!r}; expected {rule.expected}"
            reasons.setdefault(row, []).append((rule.name, reason))
        if rule.column is None:
            of_the_set.append(f"{rule.name}: found {breach.observed}; expected {rule.expected}")
    quarantined = list(merged.quarantined)
    for row, found in sorted(reasons.items()):
        names = tuple(name for name, _ in found)
        reason = "; ".join(text for _, text in found)
        quarantined.append(Quarantined(merged.rows[row].place, names, reason))
    quarantined.sort(key=lambda item: (item.place.intake, item.place.line))
    accepted = [item for row, item in enumerate(merged.rows) if row not in reasons]
    return Verdict(name, accepted, quarantined, merged.superseded, of_the_set)


def _check(verdict: Verdict[T], params: ValidationParams) -> None:
    """Nothing, where enough rows stand.

    Raises:
        DataError: with the three first of the rows that broke a rule.
    """
    if verdict.share > params.max_quarantine_share or (
        verdict.quarantined and not verdict.accepted
    ):
        examples = "\n".join(f"  {item.shown}" for item in verdict.quarantined[:3])
        raise DataError(
            f"{len(verdict.quarantined)} of {verdict.current} {verdict.name} break a rule "
            f"({verdict.share:.1%}); expected at most {params.max_quarantine_share:.1%}, so that a "
            f"broken source is not learned from:\n{examples}",
            "mend the rows that data/scratch/validation/quarantine.jsonl lists and take them in "
            "again, or raise validation.max_quarantine_share",
        )
    if verdict.of_the_set:
        raise DataError(
            f"the set of {verdict.name} breaks a rule: {'; '.join(verdict.of_the_set)}",
            "take more rows in, or lower validation.min_records",
        )


def _write(
    accepted: Path,
    report: Path,
    records: Verdict[Record],
    documents: Verdict[Document],
    intakes: int,
) -> None:
    write_records(accepted / "records.jsonl", _sorted(records.accepted))
    write_documents(accepted / "documents.jsonl", _sorted(documents.accepted))
    slices = Counter(row.value.slice for row in records.accepted)
    verdicts = (records, documents)
    metrics = {
        "intakes": intakes,
        **{verdict.name: verdict.figures for verdict in verdicts},
        "slices": dict(sorted(slices.items())),
        "rules": {verdict.name: verdict.broken_rules for verdict in verdicts},
    }
    write_metrics(report, metrics)
    write_report(report, verdicts, slices)


def _write_places(
    accepted: Path, folders: Sequence[Path], records: Sequence[Placed[Record]]
) -> None:
    with PlacesWriter(accepted) as writer:
        for folder in folders:
            places = [row.place for row in records if row.place.intake == folder.name]
            ids = [str(place.id) for place in places]
            writer.write(Origins.read(folder), ids, [place.line for place in places])


def _sorted(rows: Sequence[Placed[T]]) -> list[T]:
    return [row.value for row in sorted(rows, key=lambda row: str(row.place.id))]


if __name__ == "__main__":
    sys.exit(run_stage("validation", Params, Paths, run))
