"""`parity.json`: written and read whole, refused where it is something else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.scoring.parity import PARITY_FILE, ModelParity, Parity
from tasks.stage.errors import DataError

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
