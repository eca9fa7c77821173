"""Take new rows in: one immutable folder a night for all sources, none where nothing is new."""

import json
import logging
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pyarrow import parquet

from tasks.ingestion.intake_files import INTAKES, IntakeWriter, intake_folders, next_name
from tasks.ingestion.missing_rows import find_missing, withdraw_rows
from tasks.ingestion.params import IngestionParams, SourceParams
from tasks.ingestion.reading import NightReader
from tasks.ingestion.sources.source import KINDS, Kind, Mark
from tasks.records.schema import PLACES_FILE
from tasks.records.turns import shown_counts
from tasks.records.withdrawals import withdrawn_intakes
from tasks.services.stores import Stores
from tasks.stage.errors import DataError
from tasks.stage.outputs import output_folders, verified

_logger = logging.getLogger(__name__)

PROFILE = "profile.json"

REFERENCE = "reference.json"


@dataclass(frozen=True)
class SourceIntake:
    """What one source gave to an intake; `left_out` says why it gave nothing, where it failed.

    `unread` counts the rows that hold a column or message key that nobody reads, by its name;
    `unmet` are the columns that `columns` in params names and no row has.
    """

    name: str
    kind: str
    origin: tuple[str, ...] = ()
    records: int = 0
    documents: int = 0
    faulty: int = 0
    unnamed: int = 0
    repeated: int = 0
    source_updated: str | None = None
    since: Mapping[Kind, Mark] = field(default_factory=dict)
    left_out: str | None = None
    unread: Mapping[Kind, Mapping[str, int]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    unmet: Mapping[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


@dataclass(frozen=True)
class Intake:
    """What one night took in: the folder's name and how many rows are new or changed.

    `faulty` of them could not be read, and `unnamed` had no id and got one from their content;
    rows without an id that came more than once are counted as `repeated` and kept once.
    `source_updated` is when the source that is longest at rest last changed. `unread` and `unmet`
    are those of all sources; of several, a column that was not met is told with its source.
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
    sources: tuple[SourceIntake, ...]
    python: str
    unread: Mapping[Kind, Mapping[str, int]]
    unmet: Mapping[Kind, list[str]]


@dataclass(frozen=True)
class TakenIn:
    """Tonight's intake, None where no row is new, and the sources that had to be left out: why.

    `warnings` say of each source which rows were withdrawn, and how many erased ones it offers.
    """

    intake: Intake | None
    left_out: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@task(name="ingest", cache_policy=NO_CACHE, persist_result=False)
def ingest(params: IngestionParams, raw: Path, accepted: Path, stores: Stores) -> TakenIn:
    """Take in what is new, and return it; sources that fail are left out where params say so."""
    taken = take_in(params, raw, datetime.now(UTC), accepted=accepted, stores=stores)
    logger = get_run_logger()
    for name, why in taken.left_out.items():
        logger.warning("source %s was left out: %s", name, why)
    for said in taken.warnings:
        logger.warning("%s", said)
    if taken.intake is None:
        kept = len(intake_folders(raw))
        names = ", ".join(source.name for source in params.sources)
        logger.info("nothing new from %s: %d intakes are kept", names, kept)
        return taken
    for source in taken.intake.sources:
        if source.left_out is not None:
            continue
        logger.info(
            "%s: %d new or changed records and %d documents from %s; %d lines at fault, %d rows "
            "named after their content, %d repeated ones left out",
            taken.intake.name,
            source.records,
            source.documents,
            source.name,
            source.faulty,
            source.unnamed,
            source.repeated,
        )
        for said in not_read(source):
            logger.warning("%s: %s: %s", taken.intake.name, source.name, said)
    return taken


def not_read(intake: Intake | SourceIntake) -> list[str]:
    """Return a line for what of the new rows nobody reads, and one for what was mapped in vain."""
    lines = []
    for kind in KINDS:
        if counts := intake.unread[kind]:
            lines.append(f"nobody reads these of the {kind}: {shown_counts(counts)}")
        if names := intake.unmet[kind]:
            lines.append(f"columns.{kind} in params names what no row has: {', '.join(names)}")
    return lines


def take_in(
    params: IngestionParams,
    raw: Path,
    now: datetime,
    *,
    accepted: Path,
    stores: Stores | None = None,
) -> TakenIn:
    """Write the intake below `raw/intakes/`; write nothing if no row is new.

    A row is new where no earlier intake holds its id, changed where the latest one that does holds
    other content. Lines that can't be read go along as they are: validation names them. One row
    is in memory at a time; what earlier intakes hold is there as digests. `accepted` is the folder
    of the last accepted data, whose profile goes along as `reference.json`. `stores` are MLflow's,
    which feedback alone is read from. Rows that were erased are left out, and those that a source
    no longer has are withdrawn where params say so.

    Raises:
        DataError: a file is missing, can't be read or is empty, two sources have rows of one id, or
            an earlier intake was changed.
        ConfigError: the params name no source that can be read.
        GateError: a source lacks more of its rows than params allow.
    """
    _clear(raw)
    with IntakeWriter(raw / INTAKES) as writer:
        reader = NightReader(params, raw, writer, stores)
        for source in params.sources:
            reader.read(source, "records")
        for source in params.sources:
            reader.read(source, "documents")
        if len(reader.left_out) == len(params.sources):
            raise DataError(
                "no source could be read: " + "; ".join(reader.left_out.values()),
                "mend one of them; on_failure: skip lets a night go on with the others alone",
            )
        missing = find_missing(reader, params.sources, raw)
        withdraw_rows(raw, missing, now)
        warnings = (*_erased_again(reader), *(item.told for item in missing))
        if writer.is_empty:
            return TakenIn(None, reader.left_out, warnings)
        intake = _describe(params, reader, writer, next_name(raw, now, writer.digest), now)
        with output_folders(raw / INTAKES / intake.name) as (folder,):
            writer.place(folder)
            text = json.dumps(asdict(intake), indent=1, ensure_ascii=False)
            (folder / "intake.json").write_text(text + "\n", encoding="utf-8")
            _copy_profile(accepted, raw, folder)
    return TakenIn(intake, reader.left_out, warnings)


def _erased_again(reader: NightReader) -> Iterator[str]:
    """Say of each source how many rows it offers though they were erased."""
    for name, source in reader.opened.items():
        if count := source.erased.total():
            yield (
                f"source {name} offers {count} rows that were erased, and they are left out: take "
                "them out of it; a row that may be learned from needs another id and content"
            )


def _clear(raw: Path) -> None:
    """Remove what a night that was killed left half-written."""
    for partial in (raw / INTAKES).glob(".*.partial"):
        shutil.rmtree(partial)


def _describe(
    params: IngestionParams, reader: NightReader, writer: IntakeWriter, name: str, now: datetime
) -> Intake:
    sources = tuple(_source_intake(source, reader, writer) for source in params.sources)
    updates = [source.source_updated for source in sources if source.source_updated is not None]
    return Intake(
        name=name,
        source=", ".join(source.name for source in sources),
        origin=tuple(place for source in sources for place in source.origin),
        records=sum(source.records for source in sources),
        documents=sum(source.documents for source in sources),
        faulty=sum(source.faulty for source in sources),
        unnamed=sum(source.unnamed for source in sources),
        repeated=sum(source.repeated for source in sources),
        when=now.astimezone(UTC).isoformat(timespec="seconds"),
        source_updated=min(updates, default=None),
        sources=sources,
        python=platform.python_version(),
        unread={kind: _sorted(_all_unread(sources, kind)) for kind in KINDS},
        unmet={kind: _all_unmet(sources, kind) for kind in KINDS},
    )


def _all_unread(sources: Sequence[SourceIntake], kind: Kind) -> Counter[str]:
    counts: Counter[str] = Counter()
    for source in sources:
        counts.update(source.unread[kind])
    return counts


def _all_unmet(sources: Sequence[SourceIntake], kind: Kind) -> list[str]:
    if len(sources) == 1:
        return sources[0].unmet[kind]
    return [f"{name} (of {source.name})" for source in sources for name in source.unmet[kind]]


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _source_intake(params: SourceParams, reader: NightReader, writer: IntakeWriter) -> SourceIntake:
    """Return what a source gave tonight."""
    named = SourceIntake(params.name, params.kind)
    if params.name in reader.left_out:
        return replace(named, left_out=reader.left_out[params.name])
    source, part = reader.opened[params.name], writer.part(params.name)
    return replace(
        named,
        origin=source.source.origin,
        records=part.counts["records"],
        documents=part.counts["documents"],
        faulty=sum(part.faults[kind] for kind in KINDS),
        unnamed=source.unnamed,
        repeated=source.repeated,
        source_updated=source.source.updated(),
        since=source.source.marks(),
        unread={kind: _sorted(counts) for kind, counts in source.unread.items()},
        unmet=source.unmet,
    )


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
    return set(parquet.read_table(places, columns=["intake"])["intake"].unique().to_pylist())
