"""What 718988b left is read, served, decided about and deleted by today's code."""

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

from flows.graph import read_stage, stage_names
from flows.promoter import make_promoter
from flows.workspace import Workspace, prepare
from tasks.records.predictions import read_predictions
from tasks.registry.approval import ApprovalResponse, read_request, settle
from tasks.scoring.answer_scores import token_f1
from tasks.scoring.identity import scoring_name, scoring_sha256
from tasks.services.loopback import free_port
from tests.frozen.conftest import Frozen

# The last entry's: a hash noted down elsewhere, which no rewritten ledger could have.
HEAD = "6f2daea69ddd238cc8d3dd7817f925ad9d99ccd7991fa4dacb6750a38d1fbc41"
MODELS = ("adapter", "student")


def bundle(frozen: Frozen, model: str, number: int) -> Path:
    """The bundle of a version, below its source."""
    version = MlflowClient(frozen.store).get_model_version(f"nightloom-{model}", str(number))
    [manifest] = Path(version.source.removeprefix("file://")).glob("artifacts/*/manifest.json")
    return manifest.parent


def golden(frozen: Frozen, model: str, number: int) -> list[dict[str, Any]]:
    """What a bundle's model was asked and answered when it was packaged."""
    content = json.loads((bundle(frozen, model, number) / "golden.json").read_text())
    found: list[dict[str, Any]] = content["models"][model]
    return found


def asked(item: dict[str, Any]) -> dict[str, Any]:
    """A golden prompt's turns as MLflow's Responses API takes them."""
    return {"input": [{"role": role, "content": text} for role, text in item["turns"]]}


def test_the_ledger_s_entries_are_those_that_were_written_and_its_chain_is_whole(
    unpacked: Frozen,
) -> None:
    rows = unpacked.call("ledger", "--limit", "1000")
    assert rows == unpacked.said("ledger")
    kinds = [row["kind"] for row in rows if row["model"] == "adapter"]
    assert kinds == ["promoted", "promoted", "rolled_back", "refused", "promoted"]
    verified = unpacked.call("ledger", "verify", "--contains", HEAD)
    assert verified == {"entries": len(rows), "head": HEAD, "faults": []}


def test_status_tells_the_nights_the_aliases_and_the_open_question(unpacked: Frozen) -> None:
    status, then = unpacked.call("status"), unpacked.said("status")
    assert status["aliases"] == then["aliases"]
    assert status["open"] == then["open"]
    assert "awaits approval for production" in status["open"][0]
    for night, old in zip(status["nights"], then["nights"], strict=True):
        stages = [
            {name: stage[name] for name in before}
            for stage, before in zip(night["stages"], old["stages"], strict=True)
        ]
        assert {name: night[name] for name in old} | {"stages": stages} == old


def test_two_versions_are_compared_from_their_reports_in_mlflow(unpacked: Frozen) -> None:
    assert unpacked.call("compare", "1", "2") == unpacked.said("compare")


def test_a_moved_store_names_the_place_where_it_lies_now(unpacked: Frozen, frozen: Frozen) -> None:
    for store in (unpacked, frozen):
        dumped = "\n".join(sqlite3.connect(store.root / ".nightloom" / "mlflow.db").iterdump())
        places = set(re.findall(r"file://[^']*?/\.nightloom/artifacts", dumped))
        assert places == {f"file://{store.root}/.nightloom/artifacts"}


_LOAD = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
loaded = mlflow.pyfunc.load_model(sys.argv[2])
found = loaded.predict(json.loads(sys.argv[3]))
code = sys.modules["tasks.stage.errors"].__file__
print(json.dumps([found["custom_outputs"]["token_ids"], code]))
"""


def test_a_version_loads_the_code_that_came_with_it_and_answers_as_it_did(
    unpacked: Frozen, tmp_path: Path
) -> None:
    item = golden(unpacked, "student", 2)[0]
    words = [unpacked.store, "models:/nightloom-student/2", json.dumps(asked(item))]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOAD, *words], cwd=tmp_path, env=environment(unpacked),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ids, code = json.loads(done.stdout.splitlines()[-1])
    assert ids == item["answer_ids"]
    assert Path(code).is_relative_to(unpacked.root / ".nightloom" / "artifacts")


def test_mlflow_serves_what_is_in_production(unpacked: Frozen, tmp_path: Path) -> None:
    with served(unpacked, "models:/nightloom-adapter@production", tmp_path) as address:
        for item in golden(unpacked, "adapter", 1)[:2]:
            found = post(f"{address}/invocations", asked(item))
            assert found["custom_outputs"]["token_ids"] == item["answer_ids"]


@pytest.mark.parametrize("model", MODELS)
def test_a_bundle_answers_its_golden_prompts_to_today_s_code(model: str, unpacked: Frozen) -> None:
    from tasks.answering.rehearsal import rehearse

    said = rehearse(bundle(unpacked, model, 2), unpacked.models, model, 0.0)
    count = len(golden(unpacked, model, 2))
    assert said == f"{count} of {count} golden prompts answered as recorded"


def test_an_old_bundle_answers_as_in_its_night_and_is_scored_by_todays_version(
    unpacked: Frozen, tmp_path: Path
) -> None:
    from tasks.evaluation import rescoring
    from tasks.stage.params import load_params

    params = load_params(rescoring.Params, tiny_params(tmp_path))
    report = unpacked.root / "data" / "reports" / "evaluation"
    paths = rescoring.Paths(
        curated=unpacked.root / "data" / "curated",
        model_store=unpacked.models,
        bundle=bundle(unpacked, "adapter", 4) / "adapter",
        scratch=tmp_path / "scratch",
        rescore_report=tmp_path / "report",
    )
    rescoring.run(params, paths)
    then, now = (
        {
            row.record: (row.output, row.reference, row.prompt_sha256)
            for row in read_predictions(folder / "predictions.parquet")
            if (row.system, row.mode) == ("adapter", "retrieved")
        }
        for folder in (report, tmp_path / "report")
    )
    assert len(now) == 16
    assert now == then
    for row in read_predictions(tmp_path / "report" / "predictions.parquet"):
        assert row.token_f1 == token_f1(row.output, row.reference)
    old, new = (
        json.loads((folder / "metrics.json").read_text())["test_split"]
        for folder in (report, tmp_path / "report")
    )
    markers = params.evaluation.abstentions
    assert new["scored_sha256"] == old["scored_sha256"]
    assert new["scoring_sha256"] == scoring_sha256(markers)
    assert scoring_name(old["scoring_sha256"], markers) == "version 1 of the scoring"


def test_production_goes_back_to_a_version_that_was_there(frozen: Frozen) -> None:
    found = frozen.call("rollback", "--to", "2", "--reason", "version 1 was no better")
    assert found["aliases"]["production"] == 2
    last = frozen.call("ledger")[-1]
    assert (last["kind"], last["version"]) == ("rolled_back", 2)
    assert "golden prompts answered as recorded" in last["reason"]
    assert frozen.call("ledger", "verify")["faults"] == []


def test_the_open_question_is_answered(frozen: Frozen) -> None:
    promoter = make_promoter(frozen.root)
    [link] = [
        link for link in promoter.ledger.links("adapter") if link.entry.awaits == "production"
    ]
    answer = ApprovalResponse("approve", "bea", "read twenty answers")
    with promoter.lock.held():
        question = read_request(promoter.ledger, link.sha256)
        entry = settle(promoter.ledger, question, answer, promoter.params, promoter.downloads)
    assert (entry.kind, entry.version, entry.after["production"]) == ("approved", 4, 4)
    assert frozen.call("status")["aliases"]["adapter"]["production"] == 4
    assert frozen.call("ledger", "verify")["faults"] == []


def test_what_is_old_is_deleted_with_its_artifacts_and_nothing_else(frozen: Frozen) -> None:
    (frozen.root / "params").unlink()
    shutil.copytree("params", frozen.root / "params")
    file = frozen.root / "params" / "release.yaml"
    params = yaml.safe_load(file.read_text())
    params["retention"] |= {"archived": 0, "days": 0}
    file.write_text(yaml.safe_dump(params))
    bundles = {(m, n): bundle(frozen, m, n) for m in MODELS for n in (1, 2, 3, 4)}
    found = frozen.call("prune", "--yes")
    gone = {(row["model"], row["version"]) for row in found["versions"] if row["goes"]}
    assert gone == {("adapter", 3), ("student", 3)}
    assert {key for key, folder in bundles.items() if not folder.exists()} == gone
    assert frozen.call("ledger", "verify")["faults"] == []


def test_a_workspace_is_brought_up_to_date_and_its_data_and_its_lock_are_read(
    unpacked: Frozen, frozen: Frozen
) -> None:
    [kept, _] = sorted((unpacked.root / ".nightloom" / "workspaces").iterdir())
    path = shutil.copytree(kept, frozen.root / ".nightloom" / "workspaces" / kept.name)
    before = hashes(path / "data")
    prepare(Workspace(frozen.root, path, ()))
    assert hashes(path / "data") == before
    assert (path / ".nightloom" / "models").resolve() == frozen.models
    lock = yaml.safe_load((path / "dvc.lock").read_text())["stages"]
    assert [name for name in stage_names(path) if name not in lock] == ["retriever_training"]
    for name, stage in lock.items():
        assert set(read_stage(path, name).outs) == {out["path"] for out in stage["outs"]}


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_artifact_is_what_was_frozen(unpacked: Frozen) -> None:
    """No test above has changed what all of them read."""
    for folder in sorted((unpacked.root / ".nightloom" / "artifacts").rglob("manifest.json")):
        for name, expected in json.loads(folder.read_text())["files"].items():
            content = (folder.parent / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == expected, folder.parent / name


def tiny_params(folder: Path) -> list[Path]:
    """Today's params with what the tiny preset says of evaluation."""
    preset = yaml.safe_load(Path("params/presets/tiny.yaml").read_text())
    files = []
    for stem in ("evaluation", "compute"):
        content = yaml.safe_load(Path(f"params/{stem}.yaml").read_text())
        for key, value in preset.items():
            file, _, name = key.partition(".")
            if file == stem:
                content[name] = value
        files.append(folder / f"{stem}.yaml")
        files[-1].write_text(yaml.safe_dump(content, allow_unicode=True))
    return files


def environment(frozen: Frozen) -> dict[str, str]:
    """The environment of a process in which no code is found but the version's own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # MLflow finds uvicorn by the path.
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | {
        "PATH": programs,
        "MLFLOW_TRACKING_URI": frozen.store,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_TRACE_SAMPLING_RATIO": "0",
        "NIGHTLOOM_MODEL_STORE": str(frozen.models),
    }


@contextmanager
def served(frozen: Frozen, uri: str, folder: Path) -> Iterator[str]:
    """The address at which MLflow itself serves a version, as its users do."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", uri, "--port", str(port)]
    log = folder / "serve.log"
    with log.open("w") as stream:
        child = subprocess.Popen(
            command, cwd=folder, env=environment(frozen), stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and child.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(log.read_text()[-3000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=30)


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)
