"""Params of ingestion for tests: those of the project, with other sources."""

from pathlib import Path
from typing import Any

from tasks.ingestion.params import IngestionParams
from tasks.records.withdrawals import withdrawn_rows
from tasks.stage.params import read_yaml
from tasks.validation.raw_rows import CurrentRows, find_current_rows, intake_folders


def ingestion_params(*entries: dict[str, Any], **changes: Any) -> IngestionParams:
    """The project's params with these sources; `changes` are of the file's other values."""
    content = read_yaml(Path("params/ingestion.yaml"))
    return IngestionParams.model_validate(content | {"sources": list(entries)} | changes)


def files_entry(root: Path, *records: str, **changes: Any) -> dict[str, Any]:
    """A source of files, named `files` unless told otherwise."""
    documents = changes.pop("documents", [])
    files = {"root": str(root), "records": list(records), "documents": documents}
    return {"name": "files", "kind": "files", "files": files} | changes


def current_rows(raw: Path, kind: str = "records") -> CurrentRows:
    """The rows of a raw folder that count, as validation reads them."""
    return find_current_rows(intake_folders(raw), f"{kind}.jsonl", withdrawn_rows(raw))
