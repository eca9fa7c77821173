"""Test records and the decisions that they took part in, counted from the ledger.

Each decision's entry names the list of its test records by SHA-256, and the ledger keeps the list
beside the entries, once however many decisions it is of. So the count is as safe as the ledger, and
the same wherever a night runs.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from tasks.registry.ledger import Ledger
from tasks.scoring.record_hashes import Hashes, read_hashes
from tasks.scoring.record_use import RecordUse

# Names the list in an entry's evidence; decisions of before have none.
TEST_RECORDS = "test_records"

_DECISIONS = ("promoted", "refused")


def count_decisions(ledger: Ledger, records: Hashes, downloads: Path) -> RecordUse:
    """Return how many decisions, of both models, these records have taken part in so far."""
    lists, uncounted = _lists(ledger)
    decisions = np.zeros(len(records), np.int64)
    for sha256, times in lists.items():
        path = ledger.kept_file(f"{sha256}.npy", downloads)
        if path is None:
            uncounted += times
        else:
            decisions += times * np.isin(records, read_hashes(path))
    found = Counter(decisions.tolist())
    return RecordUse(counts=dict(sorted(found.items())), uncounted=uncounted)


def last_use(ledger: Ledger, downloads: Path) -> RecordUse | None:
    """Return how many decisions the test records of the last one have taken part in.

    None before the first, or if their list is lost.
    """
    lists, _ = _lists(ledger)
    path = ledger.kept_file(f"{next(reversed(lists))}.npy", downloads) if lists else None
    return None if path is None else count_decisions(ledger, read_hashes(path), downloads)


def _lists(ledger: Ledger) -> tuple[dict[str, int], int]:
    """Return how many decisions were made on each list, the last one last, and on none."""
    found: dict[str, int] = {}
    uncounted = 0
    for entry in (link.entry for link in ledger.links() if link.entry.kind in _DECISIONS):
        sha256 = entry.evidence.get(TEST_RECORDS)
        if sha256 is None:
            uncounted += 1
        else:
            found[sha256] = found.pop(sha256, 0) + 1
    return found, uncounted
