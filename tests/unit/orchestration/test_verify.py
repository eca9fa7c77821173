"""Registered versions, served by MLflow itself, are held against what evaluation heard."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from tasks.orchestration import verify as verifying
from tasks.orchestration.verify import (
    Asked,
    Endpoint,
    Scored,
    ServedAnswer,
    ServingSetup,
    compare_answers,
    measure_parity,
    read_asked,
)
from tasks.records.predictions import read_predictions, write_predictions
from tasks.records.schema import ServedModel
from tasks.scoring.parity import Parity
from tasks.services.processes import StageError
from tasks.stage.errors import DataError
from tasks.stage.outputs import MANIFEST, file_sha256, write_manifest
from tests.builders.packaging import PACKAGING, Params, package
from tests.unit.conftest import Tiny

pytestmark = pytest.mark.slow

MODELS = ("adapter", "student")


@pytest.fixture(scope="module")
def night(
    tiny: Tiny,
    scored: Any,
    prompting: Any,
    models: Any,
    compute: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Scored:
    root = tmp_path_factory.mktemp("night")
    shared = {"prompting": prompting, "models": models, "compute": compute}
    params = Params.model_validate(shared | {"packaging": PACKAGING})
    return Scored(package(root, params, tiny, scored.index, scored.report), scored.report)


@pytest.fixture(scope="module")
def setup(
    night: Scored, tiny: Tiny, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> ServingSetup:
    """A registry with both models of a night, written as a release writes them."""
    root = tmp_path_factory.mktemp("house")
    command = [sys.executable, "-m", "tasks.registry.mlflow_models", "--models", *MODELS]
    command += ["--bundle", str(night.bundle), "--folder", str(root), "--store", str(tiny.store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.copyfile(empty_store, root / "mlflow.db")
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    for name in MODELS:
        client.create_registered_model(f"nightloom-{name}")
        client.create_model_version(f"nightloom-{name}", source=(root / name).as_uri())
    return ServingSetup(f"sqlite:///{root / 'mlflow.db'}", tiny.store, root / "logs")


def running() -> set[psutil.Process]:
    """Return what lives below this process; other tests may have left servers for theirs."""
    return set(psutil.Process().children(recursive=True))


@dataclass(frozen=True)
class Measured:
    """What was measured of both models, what each answered, and which processes were left."""

    parity: Parity
    answers: dict[str, list[ServedAnswer]]
    left: set[psutil.Process]


@pytest.fixture(scope="module")
def measured(night: Scored, setup: ServingSetup) -> Measured:
    """Both models asked once, side by side; what a server traces is written before it answers."""
    answers: dict[str, list[ServedAnswer]] = {name: [] for name in MODELS}
    ask = verifying._ask

    def kept(where: Endpoint, item: Asked, model: ServedModel) -> ServedAnswer:
        answers[model].append(ask(where, item, model))
        return answers[model][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        patch.setattr(verifying, "_ask", kept)
        before = running()
        parity = measure_parity({"adapter": 1, "student": 1}, night, setup)
        left = running() - before
    return Measured(parity, answers, left)


def test_both_models_served_by_mlflow_say_what_evaluation_heard(
    night: Scored, measured: Measured, tmp_path: Path
) -> None:
    found = measured.parity
    found.write(tmp_path / "parity.json")
    content = json.loads((tmp_path / "parity.json").read_text())
    whole = {"asked": 4, "agreeing": 4, "share": 1.0, "mean_score_difference": 0.0}
    assert content == {
        "models": {"adapter": whole, "student": whole},
        "versions": {"adapter": 1, "student": 1},
        "bundle_sha256": file_sha256(night.bundle / MANIFEST),
    }
    assert Parity.read(tmp_path / "parity.json") == found
    assert measured.left == set()


_PRODUCTION = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
loaded = mlflow.pyfunc.load_model("models:/nightloom-adapter@production")
turns = [{"role": "user", "content": "What does mod.f1 do?"}]
print(json.dumps(loaded.predict({"input": turns})))
"""


def test_what_is_in_production_loads_by_its_alias_with_the_code_that_came_with_it(
    setup: ServingSetup, tmp_path: Path
) -> None:
    client = MlflowClient(setup.tracking_uri)
    client.set_registered_model_alias("nightloom-adapter", "production", "1")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PRODUCTION, setup.tracking_uri],
        cwd=tmp_path, env=os.environ | {"MLFLOW_TRACE_SAMPLING_RATIO": "0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [said] = json.loads(done.stdout.splitlines()[-1])["output"]
    assert (said["type"], said["content"][0]["type"]) == ("message", "output_text")


def test_what_verify_asks_leaves_no_traces(setup: ServingSetup, measured: Measured) -> None:
    assert all(measured.answers.values())
    assert MlflowClient(setup.tracking_uri).search_traces(locations=["0"]) == []


def test_served_answers_that_evaluation_did_not_hear_are_counted_and_scored(
    night: Scored, measured: Measured, tmp_path: Path
) -> None:
    """Evaluation is made to have heard the reference, word for word, in one of four records."""
    shutil.copytree(night.evaluation, tmp_path / "evaluation")
    path = tmp_path / "evaluation" / "predictions.parquet"
    [other, *_] = (item.expected.record for item in read_asked(night, "adapter"))
    rows = [
        replace(row, output=row.reference) if row.record == other else row
        for row in read_predictions(path)
    ]
    write_predictions(path, rows)
    write_manifest(tmp_path / "evaluation")
    changed = read_asked(Scored(night.bundle, path.parent), "adapter")
    found = compare_answers(changed, measured.answers["adapter"])
    assert (found.agreeing, found.share) == (3, 0.75)
    assert -0.25 <= found.mean_score_difference < 0


def test_a_version_that_does_not_come_up_is_told_with_its_last_lines(
    night: Scored, setup: ServingSetup
) -> None:
    before = running()
    with pytest.raises(StageError, match=r"(?s)version 99, served by MLflow, ended.*not found"):
        measure_parity({"adapter": 99}, night, setup)
    assert running() <= before


_KILLED = """
import sys
from pathlib import Path
from tasks.orchestration.verify import ServingSetup, served
uri, store, logs = sys.argv[1:]
with served("adapter", 1, ServingSetup(uri, Path(store), Path(logs))) as endpoint:
    print(endpoint.address, flush=True)
    sys.stdin.read()
"""


def test_a_release_that_is_killed_leaves_no_server_behind(
    setup: ServingSetup, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _KILLED, setup.tracking_uri, str(setup.model_store)]
    process = subprocess.Popen(
        [*command, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    servers = psutil.Process(process.pid).children(recursive=True)
    assert len(servers) >= 2
    process.kill()
    process.communicate()
    assert psutil.wait_procs(servers, timeout=60)[1] == []


def asked(output: str, reference: str, rows: list[Any]) -> Asked:
    row = replace(rows[0], output=output, reference=reference, prompt_sha256="same")
    return Asked((("user", "q"),), row)


def test_agreement_asks_for_the_same_prompt_and_the_same_text(scored: Any) -> None:
    rows = read_predictions(scored.report / "predictions.parquet")
    items = [asked("a b", "a b", rows)] * 4
    heard = [
        ServedAnswer("a b", "same"),
        ServedAnswer("a b", "other"),
        ServedAnswer("a", "same"),
        ServedAnswer("", "same"),
    ]
    found = compare_answers(items, heard)
    assert (found.asked, found.agreeing, found.share) == (4, 1, 0.25)
    assert found.mean_score_difference == pytest.approx((0 + 0 + (2 / 3 - 1) + (0 - 1)) / 4)


def test_golden_records_that_evaluation_did_not_predict_are_no_evidence(
    night: Scored, tmp_path: Path
) -> None:
    shutil.copytree(night.evaluation, tmp_path / "evaluation")
    path = tmp_path / "evaluation" / "predictions.parquet"
    write_predictions(path, [replace(row, record="else") for row in read_predictions(path)])
    write_manifest(tmp_path / "evaluation")
    with pytest.raises(DataError, match="did not predict 4 of them"):
        read_asked(Scored(night.bundle, tmp_path / "evaluation"), "adapter")


def test_golden_records_of_either_form_are_asked_turn_by_turn(
    night: Scored, tmp_path: Path
) -> None:
    """A record of several turns is asked with all of them."""
    [first, *_] = read_asked(night, "adapter")
    turns = [["system", "Be brief."], ["user", "q"]]
    rows = [{"record": first.expected.record, "turns": turns, "prompt_ids": [1]}]
    (tmp_path / "golden.json").write_text(json.dumps({"format": 2, "models": {"adapter": rows}}))
    [found] = read_asked(Scored(tmp_path, night.evaluation), "adapter")
    assert found.turns == (("system", "Be brief."), ("user", "q"))
    assert found.expected == first.expected
