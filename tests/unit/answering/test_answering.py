"""A bundle answers: on the command line, and as the agent that MLflow loads from code."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.answering.__main__ import main
from tasks.answering.loading import load_answerer
from tasks.records.schema import Message
from tasks.stage.errors import ConfigError

pytestmark = pytest.mark.slow

QUESTION = "What does mod.f1 do?"


@pytest.fixture
def bundle(released: Path) -> Path:
    return released


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_an_answer_comes_with_the_passages_it_was_given(
    bundle: Path, tiny: Any, model: Any
) -> None:
    (answer,) = load_answerer(bundle, tiny.store, model).answer([[Message("user", QUESTION)]])
    assert len(answer.passages) == 2
    assert answer.passages[0].passage.document == "mod.f1"
    assert len(answer.prompt_sha256) == 64


def test_answers_do_not_depend_on_their_company(bundle: Path, tiny: Any) -> None:
    answerer = load_answerer(bundle, tiny.store, "adapter")
    asked = [[Message("user", f"What does mod.f{n} do{'?' * n}")] for n in range(4)]
    together = [item.token_ids for item in answerer.answer(asked)]
    assert together == [answerer.answer([turns])[0].token_ids for turns in asked]


def test_the_command_prints_the_answer_and_its_passages(
    bundle: Path, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--bundle", str(bundle), "--store", str(tiny.store), "--question", QUESTION]
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "adapter"
    assert main(options) == 0
    text = capsys.readouterr().out
    assert text.startswith(found["answer"])
    assert all(passage["text"] in text for passage in found["passages"])


def test_a_question_that_no_process_list_shows_comes_by_standard_input(
    bundle: Path, tiny: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--store", str(tiny.store), "--json"]
    assert main(["--bundle", str(bundle), "--question", QUESTION, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{bundle}\n{QUESTION}"))
    assert main(["--bundle", "-", "--question", "-", *options]) == 0
    heard = json.loads(capsys.readouterr().out)
    assert (heard["answer"], heard["passages"]) == (said["answer"], said["passages"])


def test_a_filter_decides_which_passages_are_searched(
    bundle: Path, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--bundle", str(bundle), "--store", str(tiny.store), "--question", QUESTION]
    assert main([*options, "--json", "--where", "document=mod.f2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {passage["id"].partition("#")[0] for passage in found["passages"]} == {"mod.f2"}
    assert main([*options, "--where", "source=nowhere"]) == 1
    assert "no passage has the source 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["bundle", "store", "question"])
def test_what_cannot_be_answered_is_an_error_with_a_remedy(
    bundle: Path, tiny: Any, tmp_path: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"bundle": str(bundle), "store": str(tiny.store), "question": QUESTION}
    parts[broken] = " " if broken == "question" else str(tmp_path)
    assert main([word for name, part in parts.items() for word in (f"--{name}", part)]) == 1
    assert "what to do" in capsys.readouterr().err


def test_a_folder_without_settings_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a release bundle"):
        load_answerer(tmp_path, tmp_path, "adapter")


_ROUND = """
import json, sys
import mlflow
from tasks.answering import mlflow_agent as agent
folder, bundle = sys.argv[1:]
mlflow.pyfunc.save_model(
    folder,
    python_model=agent.__file__,
    artifacts={"bundle": bundle},
    model_config={"model": "student"},
    pip_requirements=[],
)
loaded = mlflow.pyfunc.load_model(folder)
turns = [{"role": "user", "content": [{"type": "input_text", "text": "What does mod.f1 do?"}]}]
print(json.dumps(loaded.predict({"input": turns})))
"""


def test_mlflow_loads_the_agent_from_code_without_pickles(
    bundle: Path, tiny: Any, empty_store: Path, tmp_path: Path
) -> None:
    shutil.copyfile(empty_store, tmp_path / "m.db")
    environment = os.environ | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'm.db'}",
        "NIGHTLOOM_MODEL_STORE": str(tiny.store),
    }
    command = [sys.executable, "-c", _ROUND, str(tmp_path / "model"), str(bundle)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    student = load_answerer(bundle, tiny.store, "student")
    (answer,) = student.answer([[Message("user", QUESTION)]])
    assert found["output"][0]["content"][0]["text"] == answer.text
    assert found["custom_outputs"]["model"] == "student"
    assert [item["id"] for item in found["custom_outputs"]["passages"]] == [
        item.passage.id for item in answer.passages
    ]
