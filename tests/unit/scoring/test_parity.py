"""`parity.json`: written and read whole, refused where it is something else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.scoring.answer_scores import rouge_l
from tasks.scoring.parity import PARITY_FILE, ModelParity, Parity, parity_score
from tasks.stage.errors import DataError
from tests.builders.evaluation_report import answered

ONE = {"asked": 8, "agreeing": 7, "share": 0.875, "mean_score_difference": -0.01}
CONTENT: dict[str, Any] = {
    "models": {"adapter": ONE, "student": ONE | {"share": 1, "agreeing": 8}},
    "versions": {"adapter": 3, "student": 2},
    "bundle_sha256": "a" * 64,
}


def test_what_was_served_comes_back_as_it_was_written(tmp_path: Path) -> None:
    parity = Parity.model_validate(CONTENT)
    parity.write(tmp_path / PARITY_FILE)
    assert Parity.read(tmp_path / PARITY_FILE) == parity
    assert json.loads((tmp_path / PARITY_FILE).read_text()) == CONTENT
    assert parity.models["adapter"] == ModelParity(**ONE)


@pytest.mark.parametrize(
    "changed",
    [
        {"models": {"control": ONE}},
        {"models": {"adapter": ONE | {"share": float("nan")}}},
        {"models": {"adapter": ONE | {"asked": -1}}},
        {"models": {"adapter": ONE | {"share": 1.5}}},
        {"versions": {"adapter": "3"}},
        {"else": 1},
    ],
)
def test_what_is_no_parity_is_refused_by_its_file(tmp_path: Path, changed: dict[str, Any]) -> None:
    (tmp_path / PARITY_FILE).write_text(json.dumps(CONTENT | changed))
    with pytest.raises(DataError, match=r"parity\.json does not tell what"):
        Parity.read(tmp_path / PARITY_FILE)


def test_another_answer_is_scored_as_its_task_is() -> None:
    right, other = "the cat sat on", "on the cat sat"
    answer = answered(reference=right)
    assert parity_score(answer, other) == 1.0  # token F1: in any order
    label = answered(reference=right, accuracy=1.0)
    assert parity_score(label, other) == 0.0
    summary = answered(reference=right, rouge_1=1.0)
    assert parity_score(summary, other) == rouge_l(other, right) == 0.75
