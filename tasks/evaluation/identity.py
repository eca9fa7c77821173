"""What an evaluation was of: hashes by which another one knows whether both can be compared."""

import json
from collections.abc import Sequence

from tasks.evaluation.params import EvaluationParams
from tasks.records.schema import Record
from tasks.records.text import text_sha256
from tasks.scoring.identity import SplitHashes, records_sha256

# Raise it with every change by which the same answer gets another score or likelihood: the golden
# scores of tests/unit/test_scoring_version.py tell. The champion is then scored again. Decoding is
# no part of it: it belongs to the system that is scored.
SCORING_VERSION = 1
# Before scoring had a version, its hash was over the scoring modules' source. Version 1 is the last
# such code, and what it scored with the default `abstentions` keeps its hash.
_HASHES_OF_SOURCE = {
    (1, '["I don\'t know", "I do not know"]'): (
        "20fcf67eae779ed8e31e540a04ee18aeab266594b04419fad3ef5dba1f4fe4a5"
    ),
}


def split_hashes(scored: Sequence[Record], params: EvaluationParams) -> SplitHashes:
    """Return the hashes of what was asked and of how it is scored."""
    return SplitHashes(
        scored_sha256=records_sha256(scored), scoring_sha256=scoring_sha256(params.abstentions)
    )


def scoring_sha256(abstentions: Sequence[str]) -> str:
    """Return the hash of the scoring: equal where the same answer gets the same scores."""
    markers = json.dumps(list(abstentions))
    known = _HASHES_OF_SOURCE.get((SCORING_VERSION, markers))
    return known or text_sha256(f"scoring version {SCORING_VERSION}", markers)
