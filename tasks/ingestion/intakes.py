"""Take new rows in: one immutable folder a night, none where nothing is new."""

import json
import logging
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from heapq import nsmallest
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.ingestion.erasure import ErasedRows, erased_file
from tasks.ingestion.intake_files import (
    INTAKES,
    IntakeWriter,
    Known,
    intake_folders,
    line_digests,
    next_name,
    read_known,
    read_marks,
)
from tasks.ingestion.params import IngestionParams
from tasks.ingestion.row_formats import document_line, record_line
from tasks.ingestion.sources.opening import open_source
from tasks.ingestion.sources.source import KINDS, Found, Kind, Mark, Source
from tasks.records.readers import Line
from tasks.records.schema import PLACES_FILE
from tasks.records.text import id_form, text_sha256
from tasks.records.turns import shown_counts
from tasks.records.withdrawals import withdrawn_intakes
from tasks.stage.errors import DataError
from tasks.stage.outputs import output_folders, verified

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """The rows whose order is at most `last`, and those that are `needed` by id.

    An order is the hash of a row's id and its position, so that it is the same every night.
    `last` is None where none is kept by order.
    """

    last: tuple[str, int] | None
    needed: frozenset[str]

    def of(self, rows: Iterable[Found]) -> Iterator[Found]:
        """Yield the rows that it keeps."""
        for position, found in enumerate(rows):
            by_order = self.last is not None and (_order(found.line), position) <= self.last
            if by_order or id_form(_identifier(found.line)) in self.needed:
                yield found


def choose_records(rows: Iterable[Found], limit: int) -> Sample:
    """Choose the sample of `limit` records."""
    return Sample(_last(_orders(rows), limit), frozenset())


def choose_documents(rows: Iterable[Found], needed: frozenset[str]) -> Sample:
    """Choose the documents that are needed, and as many more, at least one."""
    present = 0

    def others() -> Iterator[tuple[str, int]]:
        nonlocal present
        for position, found in enumerate(rows):
            if id_form(_identifier(found.line)) in needed:
                present += 1
            else:
                yield _order(found.line), position

    smallest = nsmallest(max(len(needed), 1), others())
    kept = smallest[: max(present, 1)]
    return Sample(kept[-1] if kept else None, needed)


def gold(line: Line) -> list[str]:
    """Return the ids of the documents that a record names, in NFC."""
    found = (line.row or {}).get("documents")
    return [id_form(str(name)) for name in found] if isinstance(found, list) else []


def _orders(rows: Iterable[Found]) -> Iterator[tuple[str, int]]:
    return ((_order(found.line), position) for position, found in enumerate(rows))


def _last(orders: Iterable[tuple[str, int]], count: int) -> tuple[str, int] | None:
    smallest = nsmallest(count, orders)
    return smallest[-1] if smallest else None


def _identifier(line: Line) -> str:
    return str((line.row or {}).get("id", ""))


def _order(line: Line) -> str:
    return text_sha256("limit", _identifier(line) or line.raw.hex())


PROFILE = "profile.json"

REFERENCE = "reference.json"


@dataclass(frozen=True)
class Intake:
    """What one night took in: the folder's name and how many rows are new or changed.

    `faulty` of them could not be read, and `unnamed` had no id and got one from their content;
    rows without an id that came more than once are counted as `repeated` and kept once. `unread`
    counts the rows that hold a column or message key that nobody reads, by its name; `unmet` are
    the columns that `columns` in params names and no row has.
    """

    name: str
    source: str
    origin: tuple[str, ...]
    records: int
    documents: int
    faulty: int
    unnamed: int
    repeated: int
    when: str
    source_updated: str | None
    since: dict[Kind, Mark]
    python: str
    unread: dict[Kind, dict[str, int]]
    unmet: dict[Kind, list[str]]


@dataclass
class _Tally:
    """What was counted while rows came by."""

    seen: Counter[Kind] = field(default_factory=Counter)
    unnamed: int = 0
    repeated: int = 0
    mapped: dict[Kind, set[str]] = field(default_factory=dict)
    unread: dict[Kind, Counter[str]] = field(default_factory=dict)
    erased: int = 0


@task(name="ingest", cache_policy=NO_CACHE, persist_result=False)
def ingest(params: IngestionParams, raw: Path, accepted: Path) -> Intake | None:
    """Take in what is new, and return it; None if the source holds nothing new."""
    intake = take_in(params, raw, datetime.now(UTC), accepted=accepted)
    logger = get_run_logger()
    if intake is None:
        kept = len(intake_folders(raw))
        logger.info("nothing new from %s: %d intakes are kept", params.source, kept)
        return None
    logger.info(
        "%s: %d new or changed records and %d documents from %s; %d lines at fault, %d rows named "
        "after their content, %d repeated ones left out",
        intake.name,
        intake.records,
        intake.documents,
        params.source,
        intake.faulty,
        intake.unnamed,
        intake.repeated,
    )
    for said in not_read(intake):
        logger.warning("%s: %s", intake.name, said)
    return intake


def not_read(intake: Intake) -> list[str]:
    """Return a line for what of the new rows nobody reads, and one for what was mapped in vain."""
    lines = []
    for kind in KINDS:
        if counts := intake.unread[kind]:
            lines.append(f"nobody reads these of the {kind}: {shown_counts(counts)}")
        if names := intake.unmet[kind]:
            lines.append(f"columns.{kind} in params names what no row has: {', '.join(names)}")
    return lines


def take_in(params: IngestionParams, raw: Path, now: datetime, *, accepted: Path) -> Intake | None:
    """Write the intake below `raw/intakes/`; return None, and write nothing, if no row is new.

    A row is new where no earlier intake holds its id, changed where the latest one that does holds
    other content. Lines that can't be read go along as they are: validation names them. One row
    is in memory at a time; what earlier intakes hold is there as digests. A row that was erased is
    left out, whatever its id or its content. `accepted` is the folder
    of the last accepted data, whose profile goes along as `reference.json`.

    Raises:
        DataError: a file is missing, can't be read or is empty, or an earlier intake was changed.
        ConfigError: the params name no source that can be read.
    """
    _clear(raw)
    known, erased = read_known(raw), ErasedRows.read(erased_file(raw))
    source = open_source(params, read_marks(raw))
    tally = _Tally()
    with IntakeWriter(raw / INTAKES) as writer:
        sample = None if params.limit is None else _sample_records(source, params.limit)
        needed = _copy(source, "records", sample, known["records"], erased, writer, tally)
        if not tally.seen["records"] and not source.increments:
            raise DataError(
                f"source {params.source} gave no records; expected at least one",
                "mend the source or params/ingestion.yaml",
            )
        if params.limit is not None:
            sample = choose_documents(_offered(source, "documents"), frozenset(needed))
        _copy(source, "documents", sample, known["documents"], erased, writer, tally)
        if tally.erased:
            _logger.warning(
                "%d rows that were erased are offered again by source %s, and left out: take them "
                "out of it; a row that may be learned from needs another id",
                tally.erased,
                params.source,
            )
        if not any(writer.counts.values()):
            return None
        intake = _describe(params, source, writer, tally, now, raw)
        with output_folders(raw / INTAKES / intake.name) as (folder,):
            writer.place(folder)
            text = json.dumps(asdict(intake), indent=1, ensure_ascii=False)
            (folder / "intake.json").write_text(text + "\n", encoding="utf-8")
            _copy_profile(accepted, raw, folder)
    return intake


def _clear(raw: Path) -> None:
    """Remove what a night that was killed left half-written."""
    for partial in (raw / INTAKES).glob(".*.partial"):
        shutil.rmtree(partial)


def _offered(source: Source, kind: Kind) -> Iterator[Found]:
    """Yield the source's lines in our shapes, each row with an id."""
    shape = record_line if kind == "records" else document_line
    return (Found(found.file, shape(found.line)) for found in source.read(kind))


def _sample_records(source: Source, limit: int) -> Sample:
    return choose_records(_offered(source, "records"), limit)


def _copy(
    source: Source,
    kind: Kind,
    sample: Sample | None,
    known: Known,
    erased: ErasedRows,
    writer: IntakeWriter,
    tally: _Tally,
) -> set[str]:
    """Write a kind's new rows, and return the documents that the sample's records name.

    Rows that were `erased` are left out.
    """
    needed: set[str] = set()
    unnamed: set[bytes] = set()
    mapped = tally.mapped.setdefault(kind, set())
    unread = tally.unread.setdefault(kind, Counter())
    rows = _offered(source, kind)
    for found in rows if sample is None else sample.of(rows):
        tally.seen[kind] += 1
        if erased.hold(kind, found.line):
            tally.erased += 1
            continue
        if sample is not None and kind == "records":
            needed.update(gold(found.line))
        mapped.update(found.line.mapped)
        keys, digest = line_digests(found.line)
        key = keys[0]
        if found.line.has_derived_id:
            if key in unnamed:
                tally.repeated += 1
                continue
            unnamed.add(key)
        if not known.holds(keys, digest):
            writer.write(kind, found, key, digest)
            tally.unnamed += key in unnamed
            unread.update(found.line.unread)
    return needed


def _describe(
    params: IngestionParams,
    source: Source,
    writer: IntakeWriter,
    tally: _Tally,
    now: datetime,
    raw: Path,
) -> Intake:
    return Intake(
        name=next_name(raw, now, writer.digest),
        source=params.source,
        origin=source.origin,
        records=writer.counts["records"],
        documents=writer.counts["documents"],
        faulty=sum(writer.faults[kind] for kind in KINDS),
        unnamed=tally.unnamed,
        repeated=tally.repeated,
        when=now.astimezone(UTC).isoformat(timespec="seconds"),
        source_updated=source.updated(),
        since=source.marks(),
        python=platform.python_version(),
        unread={kind: dict(sorted(tally.unread[kind].items())) for kind in KINDS},
        unmet=_unmet(params, tally),
    )


def _unmet(params: IngestionParams, tally: _Tally) -> dict[Kind, list[str]]:
    names: dict[Kind, dict[str, str]] = {
        "records": params.columns.records,
        "documents": params.columns.documents,
    }
    return {
        kind: [name for name in names[kind] if tally.seen[kind] and name not in tally.mapped[kind]]
        for kind in KINDS
    }


def _copy_profile(accepted: Path, raw: Path, folder: Path) -> None:
    """Copy the profile of the last accepted data, where there are any, as the reference.

    There is none to compare with where these held rows of an intake that was withdrawn since.

    Raises:
        DataError: the accepted data do not match their manifest.
    """
    if not (accepted / PROFILE).is_file():
        return
    back = withdrawn_intakes(raw).keys() & _accepted_intakes(verified(accepted))
    if back:
        _logger.warning(
            "the last accepted rows held intake %s, which was withdrawn since: volume and drift "
            "have nothing to compare with tonight",
            ", ".join(sorted(back)),
        )
        return
    shutil.copyfile(accepted / PROFILE, folder / REFERENCE)


def _accepted_intakes(accepted: Path) -> set[str]:
    """Return the intakes that accepted records came with."""
    places = accepted / PLACES_FILE
    if not places.is_file():
        return set()
    from pyarrow import parquet

    return set(parquet.read_table(places, columns=["intake"])["intake"].unique().to_pylist())
