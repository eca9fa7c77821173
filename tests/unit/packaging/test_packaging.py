"""The bundle stands alone, answers as in evaluation, and is refused when it does not."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tasks.answering.release_bundle import BundleSettings
from tasks.packaging.__main__ import Params
from tasks.packaging.model_card import DataCounts, data_lines, license_id, training_lines
from tasks.packaging.parity import ParityRow, check_parity, score_parity
from tasks.records.predictions import read_predictions, write_predictions
from tasks.records.schema import read_records
from tasks.scoring.record_hashes import find_learned, read_hashes
from tasks.stage.errors import DataError, GateError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import verified, write_manifest
from tests.builders.packaging import package, packaging_params


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
        "learned.npy",
    }  # fmt: skip
    learned = read_hashes(bundle / "learned.npy")
    rows = read_records(tiny.curated / "train.jsonl")
    assert find_learned(rows, learned) == [row.id for row in rows]
    kept = BundleSettings.read(bundle).prompting
    assert kept.model_dump() == params.prompting.model_dump(exclude={"passage_tokens", "language"})
    offered = read_metrics(scored.report)["offered"]["folder"]
    weights = [f / "model.safetensors" for f in (bundle / "student", tiny.students / offered)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    metrics = read_metrics(tmp_path / "report")
    assert metrics["parity"] == {"adapter": 1.0, "student": 1.0}
    assert metrics["golden"] == 4


def test_the_card_tells_scores_with_intervals_data_licenses_and_training(
    released: Path, scored: Any
) -> None:
    card = (released / "README.md").read_text()
    metrics = read_metrics(scored.report)
    found = metrics["intervals"]["adapter"]["retrieved"]
    told = f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    assert f"| adapter | retrieved | {told} |" in card
    assert card.count("| adapter |") == len(metrics["systems"]["adapter"])
    assert "| test | CC0 | 12 | 12 | 12 | 12 |" in card
    assert "- base: Apache-2.0 (tiny:llama)" in card
    assert "- adapter: method qlora, rank 4, seed 0; on data `dddddddddddd`" in card
    assert "times the base's (" in card  # what was forgotten
    assert "`nf4_dequantized`" in card
    for heading, said in (("Intended use", "passages"), ("Limits", "other data")):
        [section] = [part for part in card.split("\n## ") if part.startswith(heading)]
        assert said in section


def test_the_bundle_is_a_hugging_face_model_card(released: Path, scored: Any) -> None:
    data = ModelCard.load(released / "README.md").data
    assert (data.license, data.library_name, data.base_model) == (
        "apache-2.0",
        "peft",
        "tiny:llama",
    )
    offered = read_metrics(scored.report)["offered"]["system"]
    assert [result.dataset_config for result in data.eval_results] == ["adapter", offered]
    value = read_metrics(scored.report)["intervals"]["adapter"]["retrieved"]["value"]
    assert data.eval_results[0].metric_value == pytest.approx(value, abs=1e-4)


def test_the_card_tells_shares_of_weights_and_never_all_for_less() -> None:
    made: dict[str, Any] = {
        "params": {"method": "qlora", "targets": "all"}, "versions": {}, "numeric_form": "nf4",
        "data_sha256": "d" * 64, "template_sha256": "t" * 64,
    }  # fmt: skip
    shares = {"quantised": 0.99996, "adapted": 0.0512}
    [line, *_] = training_lines({"adapter": made | {"shares": shares}})
    assert "targets all linear layers; " in line
    assert "base form `nf4` (99.9% quantised and 5.1% adapted, of the decoder's weights)" in line
    assert "quantised" not in training_lines({"adapter": made})[0]


def test_a_license_that_is_no_identifier_is_other() -> None:
    assert license_id("Apache-2.0") == "apache-2.0"
    assert license_id("see the hub's model page") == "other"


def test_sources_beyond_the_largest_twenty_are_one_line() -> None:
    rows = {(f"s{number:02}", "CC0"): {"train": 100 - number} for number in range(23)}
    lines = data_lines(DataCounts(rows))
    assert len(lines) == 2 + 20 + 1
    assert lines[2] == "| s00 | CC0 | 100 | 0 | 0 | 0 |"
    assert lines[-1] == "| 3 more sources | | 237 | 0 | 0 | 0 |"


def test_parity_scores_what_differs() -> None:
    given = {"model": "adapter", "question": "", "reference": "", "same_prompt": True}
    rows = [
        ParityRow(**given, record="a", expected="x", answer="x", expected_score=1.0, score=1.0),
        ParityRow(**given, record="b", expected="x", answer="y", expected_score=0.75, score=0.25),
    ]
    found = score_parity(rows, "token_f1")
    assert (found["agreeing"], found["records"]) == (1, 2)
    assert (found["served"], found["evaluated"], found["difference"]) == (0.625, 0.875, -0.25)
    assert found["largest_difference"] == 0.5
    with pytest.raises(GateError, match="on 1 of 2 records"):
        check_parity(rows, 0.4)
    check_parity(rows, 0.5)


def test_a_bundle_that_says_something_else_is_refused_and_leaves_nothing(
    tmp_path: Path, params: Params, tiny: Any, scored: Any
) -> None:
    report = altered(scored, tmp_path / "evaluation", 1.0)
    with pytest.raises(GateError, match="differs from what it answered in evaluation on 4 of 4"):
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
