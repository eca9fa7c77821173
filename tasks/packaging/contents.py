"""What data a bundle was made from, counted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.records.files import stream_documents, stream_records

SPLITS = ("train", "validation", "test")
DOCUMENTS = "documents"


@dataclass(frozen=True)
class Contents:
    """Rows by (source, license): how many in each split, and how many documents."""

    rows: Mapping[tuple[str, str], Mapping[str, int]]


def count_contents(curated: Path) -> Contents:
    """The counts of a curated data set."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for split in SPLITS:
        for record in stream_records(curated / f"{split}.jsonl"):
            found.setdefault((record.source, record.license), Counter())[split] += 1
    for document in stream_documents(curated / "documents.jsonl"):
        found.setdefault((document.source, document.license), Counter())[DOCUMENTS] += 1
    return Contents({key: found[key] for key in sorted(found)})
