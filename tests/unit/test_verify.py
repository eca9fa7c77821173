"""Registered versions, served by MLflow itself, are held against what evaluation heard."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from tasks.orchestration.stages import StageError
from tasks.orchestration.verify import (
    Asked,
    Evidence,
    Heard,
    House,
    compare,
    measure_parity,
    read_asked,
)
from tasks.records.parity import Parity
from tasks.records.predictions import read_predictions, write_predictions
from tasks.stage.errors import DataError
from tasks.stage.outputs import MANIFEST, file_sha256, write_manifest
from tests.unit.conftest import Tiny
from tests.unit.test_packaging import Params, package

MODELS = ("adapter", "student")


@pytest.fixture(scope="module")
def evidence(
    tiny: Tiny,
    scored: Any,
    prompting: Any,
    models: Any,
    compute: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Evidence:
    root = tmp_path_factory.mktemp("night")
    shared = {"prompting": prompting, "models": models, "compute": compute}
    params = Params.model_validate(shared | {"packaging": {"golden": 4, "max_mismatch": 0.25}})
    return Evidence(package(root, params, tiny, scored.index, scored.report), scored.report)


@pytest.fixture(scope="module")
def house(evidence: Evidence, bundles: Any, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A registry with both models of a night; the adapter's version 2 is of another night."""
    root = tmp_path_factory.mktemp("house")
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    for bundle, names in ((evidence.bundle, MODELS), (bundles.folders[2], MODELS[:1])):
        folder = root / bundle.parent.name
        command = [sys.executable, "-m", "tasks.orchestration.registry", "--bundle", str(bundle)]
        command += ["--models", *names, "--folder", str(folder), "--store", str(bundles.store)]
        subprocess.run(command, check=True, capture_output=True)
        for name in names:
            if name not in {item.name[10:] for item in client.search_registered_models()}:
                client.create_registered_model(f"nightloom-{name}")
            client.create_model_version(f"nightloom-{name}", source=(folder / name).as_uri())
    return House(f"sqlite:///{root / 'mlflow.db'}", bundles.store, root / "logs")


def test_both_models_served_by_mlflow_say_what_evaluation_heard(
    evidence: Evidence, house: House, tmp_path: Path
) -> None:
    found = measure_parity({"adapter": 1, "student": 1}, evidence, house)
    found.write(tmp_path / "parity.json")
    content = json.loads((tmp_path / "parity.json").read_text())
    whole = {"asked": 4, "agreeing": 4, "share": 1.0, "mean_score_difference": 0.0}
    assert content == {
        "models": {"adapter": whole, "student": whole},
        "versions": {"adapter": 1, "student": 1},
        "bundle_sha256": file_sha256(evidence.bundle / MANIFEST),
    }
    assert Parity.read(tmp_path / "parity.json") == found
    assert psutil.Process().children(recursive=True) == []


def test_a_version_with_another_adapter_does_not_agree(evidence: Evidence, house: House) -> None:
    found = measure_parity({"adapter": 2}, evidence, house)
    assert found.models["adapter"].share < 1
    assert found.versions == {"adapter": 2}


def test_a_version_that_does_not_come_up_is_told_with_its_last_lines(
    evidence: Evidence, house: House
) -> None:
    with pytest.raises(StageError, match=r"(?s)version 99, served by MLflow, ended.*not found"):
        measure_parity({"adapter": 99}, evidence, house)
    assert psutil.Process().children(recursive=True) == []


def asked(output: str, reference: str, rows: list[Any]) -> Asked:
    row = replace(rows[0], output=output, reference=reference, prompt_sha256="same")
    return Asked((("user", "q"),), row)


def test_agreement_asks_for_the_same_prompt_and_the_same_text(scored: Any) -> None:
    rows = read_predictions(scored.report / "predictions.parquet")
    items = [asked("a b", "a b", rows)] * 4
    heard = [Heard("a b", "same"), Heard("a b", "other"), Heard("a", "same"), Heard("", "same")]
    found = compare(items, heard)
    assert (found.asked, found.agreeing, found.share) == (4, 1, 0.25)
    assert found.mean_score_difference == pytest.approx((0 + 0 + (2 / 3 - 1) + (0 - 1)) / 4)


def test_golden_records_that_evaluation_did_not_predict_are_no_evidence(
    evidence: Evidence, tmp_path: Path
) -> None:
    shutil.copytree(evidence.evaluation, tmp_path / "evaluation")
    path = tmp_path / "evaluation" / "predictions.parquet"
    write_predictions(path, [replace(row, record="else") for row in read_predictions(path)])
    write_manifest(tmp_path / "evaluation")
    with pytest.raises(DataError, match="did not predict 4 of them"):
        read_asked(Evidence(evidence.bundle, tmp_path / "evaluation"), "adapter")


def test_golden_records_of_either_form_are_asked_turn_by_turn(
    evidence: Evidence, tmp_path: Path
) -> None:
    """A record of several turns is asked with all of them."""
    [first, *_] = read_asked(evidence, "adapter")
    turns = [["system", "Be brief."], ["user", "q"]]
    rows = [{"record": first.expected.record, "turns": turns, "prompt_ids": [1]}]
    (tmp_path / "golden.json").write_text(json.dumps({"format": 2, "models": {"adapter": rows}}))
    [found] = read_asked(Evidence(tmp_path, evidence.evaluation), "adapter")
    assert found.turns == (("system", "Be brief."), ("user", "q"))
    assert found.expected == first.expected
