"""New rows in: one immutable folder below `raw/intakes/` a night, none where nothing is new."""

import json
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field, model_validator

from tasks.orchestration.intakes import (
    INTAKES,
    intake_folders,
    next_name,
    profile,
    read_known,
)
from tasks.orchestration.sources.files import read_files
from tasks.orchestration.sources.hub import read_hub
from tasks.orchestration.sources.python_docs import read_packages
from tasks.records.hashing import text_sha256
from tasks.records.readers import Line, canonical_json, parse_line
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import output_folders
from tasks.stage.params import StageParams

RECORDS = "records.jsonl"
DOCUMENTS = "documents.jsonl"


class FilesParams(StageParams):
    """Files to read; relative paths count from the working directory."""

    records: list[str]
    documents: list[str]


class HubParams(StageParams):
    """A data set on the Hugging Face hub; `documents_split` is null where it has no documents."""

    name: str | None
    config: str | None
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$", description="a commit, 40 hex digits")
    split: str
    documents_split: str | None


class ColumnsParams(StageParams):
    """Their column's name -> ours."""

    records: dict[str, str]
    documents: dict[str, str]


class IngestionParams(StageParams):
    """`params/ingestion.yaml`."""

    source: Literal["python_docs", "files", "hub"]
    packages: list[str] = Field(description="importable packages; stdlib is the standard library")
    document_characters: int = Field(ge=100, description="longest text made of one docstring")
    unanswerable_share: float = Field(ge=0, le=0.5, description="share of the records made")
    limit: int | None = Field(ge=1, description="most records taken in, chosen by hashed id")
    files: FilesParams
    hub: HubParams
    columns: ColumnsParams

    @model_validator(mode="after")
    def _source_is_given(self) -> "IngestionParams":
        if self.source == "python_docs" and not self.packages:
            raise ValueError("source is python_docs: packages must name at least one")
        if self.source == "files" and not self.files.records:
            raise ValueError("source is files: files.records must name at least one")
        if self.source == "hub" and not (self.hub.name and self.hub.revision):
            raise ValueError("source is hub: hub.name and hub.revision must be given")
        return self


@dataclass(frozen=True)
class Intake:
    """What one night took in: the folder's name and how many rows are new or changed."""

    name: str
    source: str
    origin: tuple[str, ...]
    records: int
    documents: int
    when: str
    python: str


@task(name="ingest", cache_policy=NO_CACHE, persist_result=False)
def ingest(params: IngestionParams, raw: Path) -> Intake | None:
    """What was taken in, None where the source holds nothing new."""
    intake = take_in(params, raw, datetime.now(UTC))
    logger = get_run_logger()
    if intake is None:
        logger.info(
            "nothing new from %s: %d intakes stand", params.source, len(intake_folders(raw))
        )
    else:
        logger.info(
            "%s: %d new or changed records and %d documents from %s",
            intake.name,
            intake.records,
            intake.documents,
            params.source,
        )
    return intake


def take_in(params: IngestionParams, raw: Path, now: datetime) -> Intake | None:
    """The intake written below `raw/intakes/`, None and nothing written where no row is new.

    A row is new where no earlier intake holds its id, changed where the latest one that does holds
    other content. Lines that can't be read go along as they are: validation names them.

    Raises:
        DataError: a file is missing, or an earlier intake was changed.
        ConfigError: the source gives no records at all.
    """
    records, documents = _limited(*_read(params), params.limit)
    if not records:
        raise ConfigError(
            f"source {params.source} gave no records; expected at least one",
            "mend params/ingestion.yaml",
        )
    _clear(raw)
    known_records, known_documents = read_known(raw, RECORDS), read_known(raw, DOCUMENTS)
    new_records = [line for line in records if not known_records.holds(line)]
    new_documents = [line for line in documents if not known_documents.holds(line)]
    if not new_records and not new_documents:
        return None
    content = [_as_bytes(line) for line in [*new_records, *new_documents]]
    intake = Intake(
        name=next_name(raw, now, content),
        source=params.source,
        origin=_origin(params),
        records=len(new_records),
        documents=len(new_documents),
        when=now.astimezone(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
    )
    with output_folders(raw / INTAKES / intake.name) as (folder,):
        _write(folder / RECORDS, new_records)
        _write(folder / DOCUMENTS, new_documents)
        text = json.dumps(asdict(intake), indent=1, ensure_ascii=False)
        (folder / "intake.json").write_text(text + "\n", encoding="utf-8")
        reference = profile(known_records, known_documents)
        (folder / "reference.json").write_text(reference, encoding="utf-8")
    return intake


def _clear(raw: Path) -> None:
    """Remove what a night that was killed left half-written."""
    for partial in (raw / INTAKES).glob(".*.partial"):
        shutil.rmtree(partial)


def _read(params: IngestionParams) -> tuple[list[Line], list[Line]]:
    """The records and documents that the source offers now."""
    readers: dict[str, Callable[[IngestionParams], tuple[list[Line], list[Line]]]] = {
        "python_docs": _from_packages,
        "files": _from_files,
        "hub": _from_hub,
    }
    return readers[params.source](params)


def _from_packages(params: IngestionParams) -> tuple[list[Line], list[Line]]:
    docs = read_packages(
        params.packages,
        document_characters=params.document_characters,
        unanswerable_share=params.unanswerable_share,
    )
    return _lines(docs.records), _lines(docs.documents)


def _from_files(params: IngestionParams) -> tuple[list[Line], list[Line]]:
    records = read_files(params.files.records, params.columns.records)
    documents = read_files(params.files.documents, params.columns.documents)
    return list(records), list(documents)


def _from_hub(params: IngestionParams) -> tuple[list[Line], list[Line]]:
    hub, columns = params.hub, params.columns
    name, revision = str(hub.name), str(hub.revision)
    records = list(read_hub(name, hub.config, hub.split, revision, columns.records))
    if hub.documents_split is None:
        return records, []
    documents = read_hub(name, hub.config, hub.documents_split, revision, columns.documents)
    return records, list(documents)


def _lines(rows: Sequence[dict[str, Any]]) -> list[Line]:
    return [parse_line(number, canonical_json(row)) for number, row in enumerate(rows, start=1)]


def _limited(
    records: list[Line], documents: list[Line], limit: int | None
) -> tuple[list[Line], list[Line]]:
    """At most `limit` records, the documents that they need, and as many more documents."""
    if limit is None:
        return records, documents
    chosen = sorted(records, key=_order)[:limit]
    needed = {name for line in chosen for name in _gold(line)}
    first = [line for line in documents if _identifier(line) in needed]
    others = sorted((line for line in documents if _identifier(line) not in needed), key=_order)
    kept = {id(line) for line in [*chosen, *first, *others[: max(len(first), 1)]]}
    return [x for x in records if id(x) in kept], [x for x in documents if id(x) in kept]


def _gold(line: Line) -> list[str]:
    found = (line.row or {}).get("documents")
    return [str(name) for name in found] if isinstance(found, list) else []


def _identifier(line: Line) -> str:
    return str((line.row or {}).get("id", ""))


def _order(line: Line) -> str:
    return text_sha256("limit", _identifier(line) or line.raw.hex())


def _origin(params: IngestionParams) -> tuple[str, ...]:
    if params.source == "python_docs":
        return tuple(params.packages)
    if params.source == "files":
        return (*params.files.records, *params.files.documents)
    return (f"{params.hub.name}@{params.hub.revision}",)


def _as_bytes(line: Line) -> bytes:
    return line.raw if line.row is None else canonical_json(line.row)


def _write(path: Path, lines: Sequence[Line]) -> None:
    path.write_bytes(b"".join(_as_bytes(line) + b"\n" for line in lines))
