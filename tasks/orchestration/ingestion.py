"""New rows in: one immutable folder below `raw/intakes/` a night, none where nothing is new."""

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.intake_writer import IntakeWriter
from tasks.orchestration.intakes import (
    INTAKES,
    Known,
    intake_folders,
    line_digests,
    next_name,
    read_known,
    read_marks,
)
from tasks.orchestration.sampling import Sample, choose_documents, choose_records, gold
from tasks.orchestration.sources.opening import open_source
from tasks.orchestration.sources.params import IngestionParams
from tasks.orchestration.sources.source import KINDS, Found, Kind, Mark, Source
from tasks.records.shapes import document_line, has_derived_id, record_line
from tasks.stage.errors import DataError
from tasks.stage.outputs import output_folders, verified

PROFILE = "profile.json"
REFERENCE = "reference.json"


@dataclass(frozen=True)
class Intake:
    """What one night took in: the folder's name and how many rows are new or changed.

    `faulty` of them could not be read, and `unnamed` had no id and got one from their content;
    rows without an id that came more than once are counted as `repeated` and kept once.
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


@dataclass
class _Tally:
    """What was counted while rows came by."""

    offered: int = 0
    unnamed: int = 0
    repeated: int = 0


@task(name="ingest", cache_policy=NO_CACHE, persist_result=False)
def ingest(params: IngestionParams, raw: Path, accepted: Path) -> Intake | None:
    """What was taken in, None where the source holds nothing new."""
    intake = take_in(params, raw, datetime.now(UTC), accepted=accepted)
    logger = get_run_logger()
    if intake is None:
        standing = len(intake_folders(raw))
        logger.info("nothing new from %s: %d intakes stand", params.source, standing)
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
    return intake


def take_in(params: IngestionParams, raw: Path, now: datetime, *, accepted: Path) -> Intake | None:
    """The intake written below `raw/intakes/`, None and nothing written where no row is new.

    A row is new where no earlier intake holds its id, changed where the latest one that does holds
    other content. Lines that can't be read go along as they are: validation names them. One row
    is in memory at a time; what earlier intakes hold is there as digests. `accepted` is the folder
    of the last accepted data, whose profile goes along as `reference.json`.

    Raises:
        DataError: a file is missing, can't be read or is empty, or an earlier intake was changed.
        ConfigError: the params name no source that can be read.
    """
    _clear(raw)
    known = read_known(raw)
    source = open_source(params, read_marks(raw))
    tally = _Tally()
    with IntakeWriter(raw / INTAKES) as writer:
        sample = None if params.limit is None else _sample_records(source, params.limit)
        needed = _copy(source, "records", sample, known["records"], writer, tally)
        if not tally.offered and not source.increments:
            raise DataError(
                f"source {params.source} gave no records; expected at least one",
                "mend the source or params/ingestion.yaml",
            )
        if params.limit is not None:
            sample = choose_documents(_offered(source, "documents"), frozenset(needed))
        _copy(source, "documents", sample, known["documents"], writer, tally)
        if not any(writer.counts.values()):
            return None
        intake = _describe(params, source, writer, tally, now, raw)
        with output_folders(raw / INTAKES / intake.name) as (folder,):
            writer.place(folder)
            text = json.dumps(asdict(intake), indent=1, ensure_ascii=False)
            (folder / "intake.json").write_text(text + "\n", encoding="utf-8")
            _copy_profile(accepted, folder)
    return intake


def _clear(raw: Path) -> None:
    """Remove what a night that was killed left half-written."""
    for partial in (raw / INTAKES).glob(".*.partial"):
        shutil.rmtree(partial)


def _offered(source: Source, kind: Kind) -> Iterator[Found]:
    """The source's lines in our shapes, each row with an id."""
    shape = record_line if kind == "records" else document_line
    return (Found(found.file, shape(found.line)) for found in source.read(kind))


def _sample_records(source: Source, limit: int) -> Sample:
    return choose_records(_offered(source, "records"), limit)


def _copy(
    source: Source,
    kind: Kind,
    sample: Sample | None,
    known: Known,
    writer: IntakeWriter,
    tally: _Tally,
) -> set[str]:
    """The documents that the sample's records name; its new rows are then written."""
    needed: set[str] = set()
    unnamed: set[bytes] = set()
    rows = _offered(source, kind)
    for found in rows if sample is None else sample.of(rows):
        tally.offered += 1
        if sample is not None and kind == "records":
            needed.update(gold(found.line))
        key, digest = line_digests(found.line)
        if has_derived_id(found.line):
            if key in unnamed:
                tally.repeated += 1
                continue
            unnamed.add(key)
        if not known.holds(key, digest):
            writer.write(kind, found, key, digest)
            tally.unnamed += key in unnamed
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
    )


def _copy_profile(accepted: Path, folder: Path) -> None:
    """Copy the profile of the last accepted data, where there are any, as the reference.

    Raises:
        DataError: the accepted data do not match their manifest.
    """
    if (accepted / PROFILE).is_file():
        shutil.copyfile(verified(accepted) / PROFILE, folder / REFERENCE)
