"""The bundle stands alone, says what evaluation heard, and is refused when it does not."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.packaging.__main__ import Params
from tasks.records.predictions import read_predictions, write_predictions
from tasks.serving.bundle import BundleSettings
from tasks.stage.errors import DataError, GateError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import verified, write_manifest
from tests.unit.packaged import package, packaging_params


@pytest.fixture
def params(prompting: Any, models: Any, compute: Any) -> Params:
    return packaging_params(prompting, models, compute)


def altered(scored: Any, folder: Path, share: float) -> Path:
    """The evaluation's report with a share of the outputs changed."""
    shutil.copytree(scored.report, folder)
    rows = read_predictions(folder / "predictions.parquet")
    changed = [
        replace(row, output="other") if place < share * len(rows) else row
        for place, row in enumerate(rows)
    ]
    write_predictions(folder / "predictions.parquet", changed)
    write_manifest(folder)
    return folder


def test_a_bundle_holds_all_that_serving_needs_and_agrees(
    tmp_path: Path, params: Params, tiny: Any, scored: Any
) -> None:
    bundle = verified(package(tmp_path, params, tiny, scored.index, scored.report))
    names = {path.name for path in bundle.iterdir()}
    assert names == {
        "adapter", "student", "index", "settings.json", "base.json",
        "embedder.json", "README.md", "golden.json", "agent.py", "manifest.json",
    }  # fmt: skip
    assert BundleSettings.read(bundle).prompting == params.prompting
    offered = read_metrics(scored.report)["offered"]["folder"]
    weights = [f / "model.safetensors" for f in (bundle / "student", tiny.students / offered)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    metrics = read_metrics(tmp_path / "report")
    assert metrics["parity"] == {"adapter": 1.0, "student": 1.0}
    assert metrics["golden"] == 4


def test_the_card_tells_the_scores(tmp_path: Path, params: Params, tiny: Any, scored: Any) -> None:
    bundle = package(tmp_path, params, tiny, scored.index, scored.report)
    card = (bundle / "README.md").read_text()
    assert "tiny-llama" in card
    assert card.count("| adapter |") == 4


def test_a_bundle_that_says_something_else_is_refused_and_leaves_nothing(
    tmp_path: Path, params: Params, tiny: Any, scored: Any
) -> None:
    report = altered(scored, tmp_path / "evaluation", 1.0)
    with pytest.raises(GateError, match="differs from what evaluation heard on 4 of 4"):
        package(tmp_path, params, tiny, scored.index, report)
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "report").exists()


def test_predictions_of_other_records_are_no_evidence(
    tmp_path: Path, params: Params, tiny: Any, scored: Any
) -> None:
    shutil.copytree(scored.report, tmp_path / "evaluation")
    path = tmp_path / "evaluation" / "predictions.parquet"
    write_predictions(path, [replace(row, record="else") for row in read_predictions(path)])
    write_manifest(tmp_path / "evaluation")
    with pytest.raises(DataError, match="predicted none"):
        package(tmp_path, params, tiny, scored.index, tmp_path / "evaluation")


def test_a_part_that_was_changed_is_refused(
    tmp_path: Path, params: Params, tiny: Any, scored: Any
) -> None:
    shutil.copytree(scored.index, tmp_path / "index")
    (tmp_path / "index" / "passages.jsonl").write_text("")
    with pytest.raises(DataError, match=r"passages\.jsonl"):
        package(tmp_path, params, tiny, tmp_path / "index", scored.report)
