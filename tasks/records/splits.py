"""The test split as evidence knows it: hashes that tell one from another."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tasks.records.hashing import text_sha256

# How a record is told from another one: its id, its question and its reference.
Asked = tuple[str, str, str]


@dataclass(frozen=True)
class SplitHashes:
    """What an evaluation asked and how it scored, each by hash: equal ones can be compared.

    `scored_sha256` is over the records that were answered, `likelihood_sha256` over those whose
    reference's likelihood was taken, `scoring_sha256` over the code and params that score.
    """

    scored_sha256: str
    likelihood_sha256: str
    scoring_sha256: str

    def numbers(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        return asdict(self)


def split_sha256(asked: Iterable[Asked]) -> str:
    """The SHA-256 over records in any order."""
    return text_sha256(*(text for record in sorted(asked) for text in record))
