"""A judge's verdicts: shares that MLflow keeps, and an error wherever one is missing."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient
from prefect.logging import disable_run_logger

from tasks.orchestration.llm_judge import judge_answers
from tasks.orchestration.llm_scorers import LlmJudgeParams, judge_report
from tasks.orchestration.tracking import Tracker
from tasks.records.predictions import read_predictions
from tasks.services.stores import RunRef, Stores
from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml


@dataclass
class Endpoint:
    """What stands for a language model: it says yes to whatever holds "Return it", but `silent`."""

    url: str = ""
    silent: bool = False
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> str:
        if self.silent and len(self.asked) > 2:
            return "I would rather not say."
        shown = body["messages"][-1]["content"]
        return json.dumps({"result": "Return it" in shown, "rationale": "because"})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A local server that speaks OpenAI's protocol."""
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, body))
            choice = {"index": 0, "finish_reason": "stop",
                      "message": {"role": "assistant", "content": state.answer(body)}}  # fmt: skip
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            made = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
                    "choices": [choice], "usage": usage}  # fmt: skip
            content = json.dumps(made).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stores(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    root = tmp_path_factory.mktemp("stores")
    shutil.copyfile(empty_store, root / "mlflow.db")
    return Stores(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")


@dataclass
class Night:
    """A night up to its record."""

    root: Path
    report: Path
    run: RunRef
    stores: Stores

    def judge(self, **changes: Any) -> None:
        settings = read_yaml(Path("params/judging.yaml")) | {"records": 4} | changes
        (self.root / "params").mkdir(exist_ok=True)
        text = yaml.safe_dump(settings, allow_unicode=True)
        (self.root / "params" / "judging.yaml").write_text(text)
        with disable_run_logger():
            judge_answers.fn(self.root, self.report, self.root / "scratch", self.run, self.stores)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the judge's newest run below the night's, on which there are none."""
        client = MlflowClient(self.stores.tracking_uri)
        assert client.get_run(self.run.run_id).data.metrics == {}
        below = f"tags.`mlflow.parentRunId` = '{self.run.run_id}'"
        runs = client.search_runs([self.run.experiment_id], below)
        found = [run.data.metrics for run in runs if run.info.run_name == "judged"]
        return found[0] if found else {}


@pytest.fixture
def night(tmp_path: Path, scored: Any, stores: Stores) -> Night:
    shutil.copytree("tasks", tmp_path / "tasks")  # what a workspace holds
    run = Tracker(stores).begin_night("n", {})
    return Night(tmp_path, scored.report, run, stores)


def test_no_judge_is_asked_by_default(night: Night) -> None:
    night.judge()
    assert night.metrics == {}
    assert not (night.root / "scratch").exists()


@pytest.mark.slow
def test_a_judges_share_of_yes_is_kept_and_the_same_answers_are_asked_once(
    night: Night, endpoint: Endpoint
) -> None:
    night.judge(model="openai:/tiny", endpoint=endpoint.url)
    rows = read_predictions(night.report / "predictions.parquet")
    own = [row for row in rows if (row.system, row.mode) == ("base", "retrieved")][:4]
    share = sum("Return it" in row.reference + row.output for row in own) / 4
    assert 0 < share < 1
    assert night.metrics == {
        f"judged/{system}/{name}": value
        for system in ("base", "adapter")
        for name, value in (("correct", share), ("records", 4))
    }
    assert {path for path, _ in endpoint.asked} == {"/v1/chat/completions"}
    shown = json.dumps([body for _, body in endpoint.asked], ensure_ascii=False)
    assert all(row.question in shown for row in own)
    client = MlflowClient(night.stores.tracking_uri)
    children = client.search_runs(
        [night.run.experiment_id], f"tags.`mlflow.parentRunId` = '{night.run.run_id}'"
    )
    assert {run.info.run_name for run in children} == {
        "judge of base",
        "judge of adapter",
        "judged",
    }
    asked = len(endpoint.asked)
    night.judge(model="openai:/tiny", endpoint=endpoint.url)
    assert len(endpoint.asked) == asked == 8


@pytest.mark.slow
def test_a_judge_that_is_silent_on_one_answer_is_an_error_and_no_number(
    night: Night, endpoint: Endpoint
) -> None:
    endpoint.silent = True
    with pytest.raises(ConfigError, match=r"verdict on 2 of 4 answers \(correct\).*failed"):
        night.judge(model="openai:/tiny", endpoint=endpoint.url, systems=["base"])
    assert night.metrics == {}


def test_a_system_that_was_not_asked_is_refused_by_those_that_were(
    night: Night, endpoint: Endpoint
) -> None:
    named = {"model": "openai:/tiny", "endpoint": endpoint.url, "systems": ["nobody"]}
    params = LlmJudgeParams.model_validate(read_yaml(Path("params/judging.yaml")) | named)
    with pytest.raises(ConfigError, match=r"names the system nobody, .* asked base, adapter"):
        judge_report(params, night.report, Tracker(night.stores), night.run)
    assert not endpoint.asked


@pytest.mark.parametrize("wrong", [{"model": "gpt"}, {"endpoint": "localhost"}, {"questions": {}}])
def test_params_that_name_no_judge_are_refused(wrong: dict[str, Any]) -> None:
    settings = read_yaml(Path("params/judging.yaml"))
    with pytest.raises(ValueError, match=r"judging|model|endpoint|questions"):
        LlmJudgeParams.model_validate(settings | wrong)
