"""Nights of tiny models of other tasks than answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.records.predictions import Prediction, read_predictions
from tasks.stage.metrics import read_metrics
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams
from tests.unit.conftest import Scored, Tiny, score_night


@dataclass(frozen=True)
class TaskNight:
    """A night of tiny models up to evaluation, and what its stages are given."""

    tiny: Tiny
    scored: Scored
    shared: dict[str, Any]

    @classmethod
    def make(cls, root: Path, tiny: Tiny, shared: dict[str, Any], *task: str) -> "TaskNight":
        """Score what was made for a task; `task` is its name, where indexing has to know it."""
        return cls(tiny, score_night(root, tiny, tiny.curated, shared, *task), shared)

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(read_metrics(self.scored.report))

    @property
    def rows(self) -> list[Prediction]:
        return read_predictions(self.scored.report / "predictions.parquet")


@pytest.fixture(scope="module")
def shared(
    prompting: PromptingParams, models: ModelsParams, compute: ComputeParams
) -> dict[str, Any]:
    """What stages are given: answers may be longer than those of task answer."""
    longer = prompting.model_copy(update={"max_new_tokens": 24})
    return {"prompting": longer, "models": models, "compute": compute}
