"""What an evaluation was of: hashes by which another one knows whether both can be compared."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tasks.evaluation import abstaining, grounding, likelihood, row_scores, scores
from tasks.evaluation.params import EvaluationParams
from tasks.lm import likelihood as computed
from tasks.lm import losses
from tasks.records import text
from tasks.records.hashing import text_sha256
from tasks.records.record import Record
from tasks.records.splits import SplitHashes, records_sha256

# What makes a number of an answer. Decoding is not here: it belongs to the system that is scored.
_SCORING: tuple[ModuleType, ...] = (
    abstaining, grounding, row_scores, scores, text, likelihood, computed, losses,
)  # fmt: skip


def split_hashes(scored: Sequence[Record], params: EvaluationParams) -> SplitHashes:
    """The hashes of what was asked and of how it is scored."""
    return SplitHashes(
        scored_sha256=records_sha256(scored),
        scoring_sha256=text_sha256(
            *(_source(module) for module in _SCORING), json.dumps(params.abstentions)
        ),
    )


def _source(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text(encoding="utf-8")
