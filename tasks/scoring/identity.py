"""Identity of a test split and of its scoring, by hash: equal ones can be compared."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.records.schema import Record
from tasks.records.text import text_sha256

# Raise it with every change by which the same answer gets another score or likelihood: the golden
# scores of tests/unit/scoring/test_scoring_version.py tell. The champion is then scored again.
# Decoding is no part of it: it belongs to the system that is scored.
# 1: tokens were words alone. 2: they keep signs, operators and identifiers (tasks.scoring.tokens).
SCORING_VERSION = 2
# Before scoring had a version, its hash was over the scoring modules' source. Version 1 is the last
# such code, and what it scored with the default `abstentions` keeps its hash.
_HASHES_OF_SOURCE = {
    (1, '["I don\'t know", "I do not know"]'): (
        "20fcf67eae779ed8e31e540a04ee18aeab266594b04419fad3ef5dba1f4fe4a5"
    ),
}

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
        """Return it as `metrics.json` holds it."""
        return asdict(self)


def records_sha256(records: Iterable[Record]) -> str:
    """Return the SHA-256 over records as they are asked, in any order."""
    return split_sha256((record.id, record.question, record.answer) for record in records)


def split_sha256(asked: Iterable[Asked]) -> str:
    """Return the SHA-256 over records in any order."""
    return text_sha256(*(text for record in sorted(asked) for text in record))


def scoring_sha256(abstentions: Sequence[str], version: int = SCORING_VERSION) -> str:
    """Return the hash of a scoring: equal where the same answer gets the same scores."""
    markers = json.dumps(list(abstentions))
    known = _HASHES_OF_SOURCE.get((version, markers))
    return known or text_sha256(f"scoring version {version}", markers)


def turn_scoring_sha256(abstentions: Sequence[str]) -> str:
    """Return the hash of how turns of conversations are scored: as answers are, by conversation."""
    return text_sha256("turns, by conversation, version 1", scoring_sha256(abstentions))


def scoring_name(sha256: str | None, abstentions: Sequence[str]) -> str:
    """Return what a hash of a scoring stands for, in words."""
    for version in range(1, SCORING_VERSION + 1):
        if sha256 == scoring_sha256(abstentions, version):
            return f"version {version} of the scoring"
    return f"another scoring ({str(sha256)[:12]})"
