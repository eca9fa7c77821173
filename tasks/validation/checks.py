"""Rows checked batch by batch, and the set as a whole: what is accepted, what stops the night."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from tasks.records.turns import shown_counts
from tasks.records.withdrawals import RowWithdrawal
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
from tasks.validation.profile import Profiler
from tasks.validation.quarantine import Breach, Quarantine, Quarantined
from tasks.validation.raw_rows import (
    CurrentRows,
    Digests,
    Origins,
    PlacesWriter,
    find_current_rows,
    id_digests,
)
from tasks.validation.suites import Rule, Suite

DOCUMENTS, RECORDS = "documents", "records"
_ENOUGH = "enough_records"  # the set's rule whose remedy is no wider rule
_BATCH_BYTES = 64 << 20
_SHOWN_CHARACTERS = 300


def batched(rows: Iterable[FeatureRow], size: int) -> Iterator[list[FeatureRow]]:
    """Yield lists of at most `size` rows, fewer where their lines come to 64 MB before."""
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
    """Return one row of features a row, by its position in the batch; what a row lacks is null."""
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


@dataclass(frozen=True)
class FileResult:
    """What the rules say of one file, added up over its batches.

    `unlearned` counts the rows that ask not to be learned from, by how they say so: they are
    neither accepted nor in quarantine. `unread` counts the columns and message keys that nobody
    reads, by name.
    """

    name: str
    totals: SuiteTotals
    accepted: int
    quarantined: int
    superseded: int
    withdrawn: int
    broken: Counter[str]
    worst: list[Quarantined]
    unlearned: Counter[str]
    unread: Counter[str]
    by_intake: Counter[str]

    @property
    def current(self) -> int:
        """Return how many rows there are, without those that were replaced or withdrawn."""
        return self.accepted + self.quarantined

    @property
    def share(self) -> float:
        """Return the share of the current rows that is in quarantine."""
        return self.quarantined / max(self.current, 1)

    @property
    def fatal(self) -> list[Rule]:
        """Return the fatal rules that rows break."""
        rules = self.totals.suite.rules
        return [rule for rule in rules if rule.severity == "fatal" and self.broken[rule.name]]


@dataclass(frozen=True)
class SetResult:
    """What the rules say of the accepted rows together.

    `off` are the rules that could not be checked, with the reason; the other two are those that the
    set breaks, with what was found.
    """

    figures: SetFigures
    totals: SuiteTotals
    off: dict[str, str]
    fatal: dict[str, str]
    warnings: dict[str, str]


@dataclass(frozen=True)
class CheckedBatch:
    """What GX says of one batch: the rows that stand, and the others with what they break.

    `unlearned` are those that ask not to be learned from, which no rule sees.
    """

    results: list[RuleResult]
    accepted: list[FeatureRow]
    quarantined: list[tuple[FeatureRow, list[Breach]]]
    unlearned: list[FeatureRow]

    @property
    def unread(self) -> Iterator[str]:
        """Yield what nobody reads of each row that could be read."""
        rows = [*self.accepted, *(row for row, _ in self.quarantined)]
        return (name for row in rows for name in row.unread)


def check_rows(
    runner: SuiteRunner,
    rows: Iterable[FeatureRow],
    columns: Sequence[str],
    *,
    batch_rows: int,
    prepare: Callable[[Sequence[FeatureRow]], None] = lambda batch: None,
) -> Iterator[CheckedBatch]:
    """Yield each batch of the rows, checked by GX. `prepare` sees each first.

    Raises:
        BrokenRuleError: a rule failed to run.
    """
    for found in batched(rows, batch_rows):
        batch = [row for row in found if row.unlearned is None]
        unlearned = [row for row in found if row.unlearned is not None]
        if batch:
            prepare(batch)
        results = runner.run(frame(batch, columns)) if batch else []
        checked = _checked_batch(batch, results, unlearned)
        yield checked
        # Or this batch would stay in memory while the next one is read.
        del found, batch, unlearned, checked


def check_file(
    batches: Iterable[CheckedBatch],
    suite: Suite,
    current: CurrentRows,
    quarantine: Quarantine,
    keep: Callable[[Sequence[FeatureRow]], None],
) -> FileResult:
    """Hand the accepted rows to `keep`, write the others to quarantine, and return the sums.

    `current` says how many of the file's rows were replaced or withdrawn.
    """
    totals, broken, by_intake = SuiteTotals(suite), Counter[str](), Counter[str]()
    unlearned, unread = Counter[str](), Counter[str]()
    accepted = quarantined = 0
    for batch in batches:
        totals.add(batch.results)
        broken.update({result.rule.name: len(result.rows) for result in batch.results})
        accepted += len(batch.accepted)
        quarantined += len(batch.quarantined)
        unlearned.update(str(row.unlearned) for row in batch.unlearned)
        unread.update(batch.unread)
        by_intake.update(row.intake.name for row, _ in batch.quarantined)
        quarantine.add(batch.quarantined)
        keep(batch.accepted)
        del batch  # the next one is read before this name is given to it
    return FileResult(
        name=quarantine.kind,
        totals=totals,
        accepted=accepted,
        quarantined=quarantined,
        superseded=current.superseded,
        withdrawn=current.withdrawn,
        broken=broken,
        worst=quarantine.worst,
        unlearned=unlearned,
        unread=unread,
        by_intake=by_intake,
    )


def check_set(suite: Suite, figures: SetFigures) -> SetResult:
    """Return what the rules say of a set's figures; a rule without its figure is off."""
    off = {}
    for rule in suite.rules:
        missing = [name for name in rule.columns if figures.values[name] is None]
        if missing:
            off[rule.name] = f"{missing[0]}: {figures.reasons[missing[0]]}"
    left = suite.without(off)
    totals = SuiteTotals(left)
    results = SuiteRunner(left).run(pd.DataFrame(as_frame_row(figures)))
    totals.add(results)
    broken: dict[str, dict[str, str]] = {"fatal": {}, "warning": {}}
    for result in results:
        if not result.result.success:
            values = ", ".join(f"{x} is {figures.values[x]:.6g}" for x in result.rule.columns)
            said = f"{values}; expected {result.rule.expected}. {result.rule.notes}"
            broken[result.rule.severity][result.rule.name] = said
    return SetResult(figures, totals, off, broken["fatal"], broken["warning"])


def _checked_batch(
    batch: Sequence[FeatureRow], results: list[RuleResult], unlearned: list[FeatureRow]
) -> CheckedBatch:
    breaches: dict[int, list[Breach]] = {}
    for result in results:
        if result.rule.severity != "warning":
            for place in result.rows:
                reason = Breach(result.rule, _reason(result.rule, batch[place]))
                breaches.setdefault(place, []).append(reason)
    accepted = [row for place, row in enumerate(batch) if place not in breaches]
    quarantined = [(batch[place], found) for place, found in sorted(breaches.items())]
    return CheckedBatch(results, accepted, quarantined, unlearned)


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


@dataclass(frozen=True)
class Acceptance:
    """Where rows come from and where they go; `reads_tools` says that rows of tools are read."""

    intakes: Sequence[Path]
    withdrawn: Mapping[str, Sequence[RowWithdrawal]]
    batch_rows: int
    accepted: Path
    quarantine: BinaryIO
    profiler: Profiler
    reads_tools: bool = False

    def documents(self, runner: SuiteRunner) -> tuple[FileResult, Digests]:
        """Return what came of the documents, and the digests of the accepted ids, sorted."""
        current = find_current_rows(self.intakes, f"{DOCUMENTS}.jsonl", self.withdrawn)
        rows = map(read_document, current.rows())
        batches = check_rows(runner, rows, DOCUMENT_FEATURES, batch_rows=self.batch_rows)
        found = [id_digests(())]

        def keep(batch: Sequence[FeatureRow]) -> None:
            stream.writelines(_lines(batch))
            self.profiler.add_documents(batch)
            found.append(id_digests(row.features["id"] for row in batch))

        quarantine = Quarantine(self.quarantine, DOCUMENTS)
        with (self.accepted / f"{DOCUMENTS}.jsonl").open("wb") as stream:
            result = check_file(batches, runner.suite, current, quarantine, keep)
        return result, np.sort(np.concatenate(found))

    def records(self, runner: SuiteRunner, known: Digests) -> FileResult:
        """Return what came of the records; `known` are digests of the accepted documents."""
        current = find_current_rows(self.intakes, f"{RECORDS}.jsonl", self.withdrawn)
        batches = check_rows(
            runner,
            map(partial(read_record, reads_tools=self.reads_tools), current.rows()),
            RECORD_FEATURES,
            batch_rows=self.batch_rows,
            prepare=partial(mark_missing, known=known),
        )

        def keep(batch: Sequence[FeatureRow]) -> None:
            stream.writelines(_lines(batch))
            self.profiler.add_records(batch)
            _write_places(places, batch)

        quarantine = Quarantine(self.quarantine, RECORDS)
        path = self.accepted / f"{RECORDS}.jsonl"
        with path.open("wb") as stream, closing(PlacesWriter(self.accepted)) as places:
            return check_file(batches, runner.suite, current, quarantine, keep)


def _write_places(places: PlacesWriter, batch: Sequence[FeatureRow]) -> None:
    for intake, found in groupby(batch, key=lambda row: row.intake):
        rows = list(found)
        ids = [row.features["id"] for row in rows]
        places.write(Origins.read(intake, RECORDS), ids, [row.number for row in rows])


def _lines(batch: Sequence[FeatureRow]) -> list[bytes]:
    return [row.line for row in batch if row.line is not None]


def rows_error(result: FileResult, most: float, quarantine: Path) -> DataError | None:
    """Return why the rows of one file stop the night, with the three worst of them, or None.

    `quarantine` is the file that lists them all.
    """
    if result.fatal:
        counts = [f"{rule.name} ({result.broken[rule.name]} rows)" for rule in result.fatal]
        names = ", ".join(counts)
        found = f"{result.name} break rules that are fatal: {names}; expected none to"
        files = ", ".join(sorted({str(rule.file) for rule in result.fatal}))
        remedy = f"or make the rule's severity quarantine in {files}"
    elif result.share > most or (result.quarantined and not result.accepted):
        found = (
            f"{result.quarantined} of {result.current} {result.name} break a rule "
            f"({result.share:.1%}); expected at most {most:.1%}, so that a broken source is not "
            "learned from"
        )
        remedy = "or raise validation.max_quarantine_share"
    else:
        return None
    rules = ", ".join(f"{name}: {rows}" for name, rows in result.broken.most_common(5) if rows)
    worst = "\n".join(f"  {item.shown}" for item in result.worst)
    if result.unread:
        shown = shown_counts(result.unread)
        remedy += f"; or, where a column that nobody reads holds what is missing ({shown}), name "
        remedy += "it under `columns` in params/ingestion.yaml"
    return DataError(
        f"{found}.\nRows by rule: {rules}. The worst (fatal rules first, then most rules broken):\n"
        f"{worst}",
        f"mend the rows that {quarantine} lists and take them in again, {remedy}. "
        + _taking_back(result),
    )


def _taking_back(result: FileResult) -> str:
    """Return what helps where rows came wrong out of ingestion, so that their ids may be wrong."""
    [(intake, count)] = result.by_intake.most_common(1)
    return (
        f"{count} of these {result.quarantined} rows came with intake {intake}: where ingestion's "
        "params had read them wrongly, mend the params, then `nightloom intakes withdraw "
        f"{intake} --reason TEXT`, and the next night takes them in anew"
    )


def set_error(result: SetResult, report: Path) -> DataError | None:
    """Return why the accepted rows together stop the night, or None; `report` tells more."""
    if not result.fatal:
        return None
    lines = "\n".join(f"  {name}: {said}" for name, said in result.fatal.items())
    file = result.totals.suite.file
    remedy = (
        f"look at what the newest intake brought ({report}); where the change is meant, widen the "
        f"rule in {file} until the next intake, which is compared with the set that is accepted now"
    )
    if _ENOUGH in result.fatal:
        remedy = (
            "take more rows in: more files, a wider query, another source, or a higher limit in "
            f"params/ingestion.yaml; for a trial of so few, lower min_value of {_ENOUGH} in {file}"
        )
    return DataError(
        f"the accepted rows, taken together, break {len(result.fatal)} of the set's rules:\n"
        f"{lines}",
        remedy,
    )
