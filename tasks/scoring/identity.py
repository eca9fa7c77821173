"""Identity of a test split and of its scoring, by hash: equal ones can be compared."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tasks.records.schema import Record
from tasks.records.text import text_sha256

# How a record is told from another one: its id, its question and its reference.
Asked = tuple[str, str, str]


@dataclass(frozen=True)
class SplitHashes:
    """What an evaluation asked and how it scored, each by hash: equal ones can be compared.

    `scored_sha256` is over the records that were answered, `scoring_sha256` over the code and
    params that score.
    """

    scored_sha256: str
    scoring_sha256: str

    def numbers(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        return asdict(self)


def records_sha256(records: Iterable[Record]) -> str:
    """The SHA-256 over records as they are asked, in any order."""
    return split_sha256((record.id, record.question, record.answer) for record in records)


def split_sha256(asked: Iterable[Asked]) -> str:
    """The SHA-256 over records in any order."""
    return text_sha256(*(text for record in sorted(asked) for text in record))
