"""Rows checked batch by batch, and the set as a whole: what is accepted, what stops the night.
When two texts are alike and when two questions are one, and the keys that find such pairs.

Two questions are the same where they are equal once case, spacing and the punctuation around words
are set aside. They are nearly the same where they hold the same *telling* words and either share
four fifths of all words, or have the same answer. A word is telling where few questions of the data
set hold it. So "What does json.dump do?" and "What does json.dumps do?", made from one template,
differ: their telling words do. "Tell me, what does json.dump do?" asks the same.

The words of scripts written without spaces, and of Korean, are their pairs of neighbouring
letters."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from tasks.stage.errors import DataError
from tasks.validation.expectations import RuleResult, SuiteRunner, SuiteTotals
from tasks.validation.features import (
    DOCUMENT_FEATURES,
    RECORD_FEATURES,
    TEXT_FEATURES,
    FeatureRow,
    read_document,
    read_record,
)
from tasks.validation.figures import SetFigures, as_frame_row
from tasks.validation.places import Origins, PlacesWriter
from tasks.validation.profile import Profiler
from tasks.validation.quarantine import Breach, Quarantine, Quarantined
from tasks.validation.raw_rows import Digests, find_current_rows, id_digests
from tasks.validation.suites import Rule, Suite

_BATCH_BYTES = 64 << 20


def batched(rows: Iterable[FeatureRow], size: int) -> Iterator[list[FeatureRow]]:
    """Lists of at most `size` rows, fewer where their lines come to 64 MB before."""
    batch: list[FeatureRow] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += len(row.raw) + len(row.line or b"")
        if len(batch) >= size or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def frame(batch: Sequence[FeatureRow], columns: Sequence[str]) -> pd.DataFrame:
    """One row of features a row, by its position in the batch; what a row lacks is null."""
    content = {}
    for name in columns:
        values = [row.features.get(name) for row in batch]
        kind = "object" if name in TEXT_FEATURES else "float64"
        content[name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(content)


def mark_missing(batch: Sequence[FeatureRow], known: Digests) -> None:
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


_SHOWN_CHARACTERS = 300


@dataclass
class FileResult:
    """What the rules say of one file, added up over its batches."""

    name: str
    totals: SuiteTotals
    accepted: int = 0
    quarantined: int = 0
    superseded: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    worst: list[Quarantined] = field(default_factory=list)

    @property
    def current(self) -> int:
        """How many rows there are, good or bad, without those that a later intake replaced."""
        return self.accepted + self.quarantined

    @property
    def share(self) -> float:
        """The share of the current rows that is in quarantine."""
        return self.quarantined / max(self.current, 1)

    @property
    def fatal(self) -> list[Rule]:
        """The fatal rules that rows break."""
        rules = self.totals.suite.rules
        return [rule for rule in rules if rule.severity == "fatal" and self.broken[rule.name]]


@dataclass(frozen=True)
class SetResult:
    """What the rules say of the accepted rows together.

    `off` are the rules that could not be asked, with the reason; the other two are those that the
    set breaks, with what was found.
    """

    figures: SetFigures
    totals: SuiteTotals
    off: dict[str, str]
    fatal: dict[str, str]
    warnings: dict[str, str]


@dataclass(frozen=True)
class CheckedBatch:
    """One batch, judged: the rows that stand, and the others with what they break."""

    accepted: list[FeatureRow]
    quarantined: list[tuple[FeatureRow, list[Breach]]]


def check_rows(
    judge: SuiteRunner,
    rows: Iterable[FeatureRow],
    columns: Sequence[str],
    *,
    batch_rows: int,
    verdict: FileResult,
    prepare: Callable[[Sequence[FeatureRow]], None] = lambda batch: None,
) -> Iterator[CheckedBatch]:
    """Each batch of the rows, judged by GX; the verdict grows along. `prepare` sees each first.

    Raises:
        BrokenRuleError: a rule failed to run.
    """
    for batch in batched(rows, batch_rows):
        prepare(batch)
        findings = judge.findings(frame(batch, columns))
        verdict.totals.add(findings)
        judged = _checked_batch(batch, findings)
        verdict.accepted += len(judged.accepted)
        verdict.quarantined += len(judged.quarantined)
        verdict.broken.update({finding.rule.name: len(finding.rows) for finding in findings})
        yield judged
        # Or this batch would stay in memory while the next one is read.
        del batch, findings, judged


def accept(
    judged: Iterable[CheckedBatch], quarantine: Quarantine, verdict: FileResult
) -> Iterator[list[FeatureRow]]:
    """The accepted rows of each batch; the others are written to quarantine on the way."""
    for batch in judged:
        quarantine.add(batch.quarantined)
        yield batch.accepted
        del batch
    verdict.worst = quarantine.worst


def check_set(suite: Suite, figures: SetFigures) -> SetResult:
    """What the rules say of a set's figures; a rule without its figure is off."""
    off = {}
    for rule in suite.rules:
        missing = [name for name in rule.columns if figures.values[name] is None]
        if missing:
            off[rule.name] = f"{missing[0]}: {figures.reasons[missing[0]]}"
    asked = suite.without(off)
    totals = SuiteTotals(asked)
    findings = SuiteRunner(asked).findings(pd.DataFrame(as_frame_row(figures)))
    totals.add(findings)
    broken: dict[str, dict[str, str]] = {"fatal": {}, "warning": {}}
    for finding in findings:
        if not finding.result.success:
            values = ", ".join(f"{x} is {figures.values[x]:.6g}" for x in finding.rule.columns)
            said = f"{values}; expected {finding.rule.expected}. {finding.rule.notes}"
            broken[finding.rule.severity][finding.rule.name] = said
    return SetResult(figures, totals, off, broken["fatal"], broken["warning"])


def _checked_batch(batch: Sequence[FeatureRow], findings: Sequence[RuleResult]) -> CheckedBatch:
    breaches: dict[int, list[Breach]] = {}
    for finding in findings:
        if finding.rule.severity != "warning":
            for place in finding.rows:
                reason = Breach(finding.rule, _reason(finding.rule, batch[place]))
                breaches.setdefault(place, []).append(reason)
    accepted = [row for place, row in enumerate(batch) if place not in breaches]
    return CheckedBatch(
        accepted, [(batch[place], found) for place, found in sorted(breaches.items())]
    )


def _reason(rule: Rule, row: FeatureRow) -> str:
    values = [row.features.get(name) for name in rule.columns]
    if rule.columns[0].endswith("_fault"):
        return str(values[0])[:_SHOWN_CHARACTERS]
    found = zip(rule.columns, values, strict=True)
    said = " and ".join(f"{name} is {_shown_value(value)}" for name, value in found)
    return f"{said}; expected {rule.expected}"


def _shown_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value)[:_SHOWN_CHARACTERS]


DOCUMENTS, RECORDS = "documents", "records"


@dataclass(frozen=True)
class Acceptance:
    """Where rows come from and where they go."""

    intakes: Sequence[Path]
    batch_rows: int
    accepted: Path
    quarantine: BinaryIO
    profiler: Profiler

    def documents(self, judge: SuiteRunner) -> tuple[FileResult, Digests]:
        """The verdict on the documents, and the digests of the accepted ones' ids, sorted."""
        census = find_current_rows(self.intakes, f"{DOCUMENTS}.jsonl")
        verdict = FileResult(DOCUMENTS, SuiteTotals(judge.suite), superseded=census.superseded)
        rows = map(read_document, census.rows())
        judged = check_rows(
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

    def records(self, judge: SuiteRunner, known: Digests) -> FileResult:
        """The verdict on the records; `known` are the digests of the accepted documents."""
        census = find_current_rows(self.intakes, f"{RECORDS}.jsonl")
        verdict = FileResult(RECORDS, SuiteTotals(judge.suite), superseded=census.superseded)
        judged = check_rows(
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


def _write_places(places: PlacesWriter, batch: Sequence[FeatureRow]) -> None:
    for intake, found in groupby(batch, key=lambda row: row.intake):
        rows = list(found)
        ids = [row.features["id"] for row in rows]
        places.write(Origins.read(intake, RECORDS), ids, [row.number for row in rows])


def _lines(batch: Sequence[FeatureRow]) -> list[bytes]:
    return [row.line for row in batch if row.line is not None]


_QUARANTINE = "data/scratch/validation/quarantine.jsonl"


def rows_error(verdict: FileResult, most: float) -> DataError | None:
    """Why the rows of one file stop the night, with the three worst of them, or None."""
    if verdict.fatal:
        counts = [f"{rule.name} ({verdict.broken[rule.name]} rows)" for rule in verdict.fatal]
        names = ", ".join(counts)
        found = f"{verdict.name} break rules that are fatal: {names}; expected none to"
        files = ", ".join(sorted({str(rule.file) for rule in verdict.fatal}))
        remedy = f"or make the rule's severity quarantine in {files}"
    elif verdict.share > most or (verdict.quarantined and not verdict.accepted):
        found = (
            f"{verdict.quarantined} of {verdict.current} {verdict.name} break a rule "
            f"({verdict.share:.1%}); expected at most {most:.1%}, so that a broken source is not "
            "learned from"
        )
        remedy = "or raise validation.max_quarantine_share"
    else:
        return None
    rules = ", ".join(f"{name}: {rows}" for name, rows in verdict.broken.most_common(5) if rows)
    worst = "\n".join(f"  {item.shown}" for item in verdict.worst)
    return DataError(
        f"{found}.\nRows by rule: {rules}. The worst (fatal rules first, then most rules broken):\n"
        f"{worst}",
        f"mend the rows that {_QUARANTINE} lists and take them in again, {remedy}",
    )


def set_error(verdict: SetResult) -> DataError | None:
    """Why the accepted rows together stop the night, or None."""
    if not verdict.fatal:
        return None
    lines = "\n".join(f"  {name}: {said}" for name, said in verdict.fatal.items())
    file = verdict.totals.suite.file
    return DataError(
        f"the accepted rows, taken together, break {len(verdict.fatal)} of the set's rules:\n"
        f"{lines}",
        "look at what the newest intake brought (data/scratch/validation/report.md); where the "
        f"change is meant, widen the rule in {file} until the next intake, which is compared with "
        "the set that is accepted now",
    )
