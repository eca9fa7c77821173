"""Parity over HTTP: the registered versions, served by MLflow, answer as in evaluation."""

import json
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.guarded_server import SECRET, basic_header, guarded_command
from tasks.records.predictions import PREDICTIONS_FILE, Prediction, last_turns, read_predictions
from tasks.records.schema import ServedModel
from tasks.scoring.parity import PARITY_FILE, ModelParity, Parity, parity_score
from tasks.services import HOST
from tasks.services.loopback import free_port, open_directly, wait_for_answer
from tasks.services.processes import (
    StageError,
    child_environment,
    end_child,
    last_log_lines,
    start_server,
)
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import MANIFEST, file_sha256, verified

_START_SECONDS = 300.0
_ANSWER_SECONDS = 600  # MLflow's own bound is 60, which a machine that is busy can pass


@dataclass(frozen=True)
class Scored:
    """What the served answers are held against: the night's bundle and evaluation's report."""

    bundle: Path
    evaluation: Path


@dataclass(frozen=True)
class ServingSetup:
    """From where versions are served: the MLflow store, the base models, a folder for logs."""

    tracking_uri: str
    model_store: Path
    logs: Path


@dataclass(frozen=True)
class Asked:
    """A golden record: the turns that ask, and what a model answered in evaluation."""

    turns: tuple[tuple[str, str], ...]
    expected: Prediction


@dataclass(frozen=True)
class Endpoint:
    """Where a version is served, and the secret that its server demands."""

    address: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class ServedAnswer:
    """What a served version answered, and the hash of the prompt that it made of the turns."""

    text: str
    prompt_sha256: str


@task(task_run_name="verify", cache_policy=NO_CACHE, persist_result=False)
def verify(
    versions: Mapping[ServedModel, int], scored: Scored, setup: ServingSetup, target: Path
) -> Parity:
    """Measure the parity of registered versions with evaluation; write `target/parity.json`.

    Raises:
        DataError: the bundle's golden records are not those that evaluation predicted.
        StageError: a version does not come up, or does not answer.
    """
    started = time.monotonic()
    found = measure_parity(versions, scored, setup)
    found.write(target / PARITY_FILE)
    for model, parity in found.models.items():
        get_run_logger().info(
            "%s version %d, served by MLflow: %d of %d answers are those of evaluation, "
            "token F1 %+.3f",
            model,
            found.versions[model],
            parity.agreeing,
            parity.asked,
            parity.mean_score_difference,
        )
    get_run_logger().info("asked over HTTP in %.0f s", time.monotonic() - started)
    return found


def measure_parity(
    versions: Mapping[ServedModel, int], scored: Scored, setup: ServingSetup
) -> Parity:
    """Measure the parity of registered versions with evaluation, the models served side by side."""
    asked = {model: read_asked(scored, model) for model in versions}

    def measure(model: ServedModel) -> ModelParity:
        with served(model, versions[model], setup) as endpoint:
            answers = [_ask(endpoint, item, model) for item in asked[model]]
        return compare_answers(asked[model], answers)

    with ThreadPoolExecutor(len(versions)) as pool:
        found = dict(zip(versions, pool.map(measure, versions), strict=True))
    digest = file_sha256(scored.bundle / MANIFEST)
    return Parity(models=found, versions=dict(versions), bundle_sha256=digest)


def read_asked(scored: Scored, model: ServedModel) -> list[Asked]:
    """Read the bundle's golden records with evaluation's answers to them, as the model is served.

    Raises:
        DataError: evaluation predicted one of them not at all, or there are none.
    """
    evaluation = verified(scored.evaluation)
    offered = read_metrics(evaluation)["offered"]["system"]
    system = offered if model == "student" else model
    rows = [row for row in read_predictions(evaluation / PREDICTIONS_FILE) if row.system == system]
    # A served model retrieves where there are documents.
    mode = "retrieved" if any(row.mode == "retrieved" for row in rows) else "closed_book"
    expected = {row.record: row for row in last_turns(rows) if row.mode == mode}
    golden = _golden_turns(scored.bundle, model)
    missing = sorted(golden.keys() - expected.keys())
    if missing or not golden:
        raise DataError(
            f"{scored.bundle} has {len(golden)} golden records of the {model}; evaluation did "
            f"not predict {len(missing)} of them in mode {mode} as {system}: {missing[:3]}. "
            "So what is served can't be held against what was scored",
            "run `nightloom run`, so that evaluation and packaging see the same split",
        )
    return [Asked(turns, expected[record]) for record, turns in golden.items()]


def _golden_turns(bundle: Path, model: ServedModel) -> dict[str, tuple[tuple[str, str], ...]]:
    """Record id -> role and content of each turn that asks, from a bundle's `golden.json`."""
    found = json.loads((bundle / "golden.json").read_text(encoding="utf-8"))
    rows = found["models"][model]
    return {row["record"]: tuple((role, text) for role, text in row["turns"]) for row in rows}


def compare_answers(asked: Sequence[Asked], answers: Sequence[ServedAnswer]) -> ModelParity:
    """Count the answers that agree, in prompt and text, and what the differences are worth."""
    agreeing, difference = 0, 0.0
    for item, answer in zip(asked, answers, strict=True):
        known = item.expected
        same_prompt = answer.prompt_sha256 == known.prompt_sha256
        agreeing += same_prompt and answer.text == known.output
        scores = (parity_score(known, text) for text in (answer.text, known.output))
        difference += next(scores) - next(scores)
    return ModelParity(
        asked=len(asked),
        agreeing=agreeing,
        share=agreeing / len(asked),
        mean_score_difference=difference / len(asked),
    )


@contextmanager
def served(model: ServedModel, version: int, setup: ServingSetup) -> Iterator[Endpoint]:
    """Serve a version by MLflow for as long as the block lasts; yield where.

    Raises:
        StageError: it did not come up; the message has the last lines of its log.
    """
    log = setup.logs / f"serve-{model}-{version}.log"
    port = free_port()
    endpoint = Endpoint(f"http://{HOST}:{port}", f"nightloom:{secrets.token_urlsafe(32)}")
    uri = f"models:/nightloom-{model}/{version}"
    command = guarded_command("version", HOST, port, "--uri", uri)
    environment = child_environment() | {
        SECRET: endpoint.secret,
        "MLFLOW_TRACKING_URI": setup.tracking_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(_ANSWER_SECONDS),
        "MLFLOW_TRACE_SAMPLING_RATIO": "0",  # traces are of users' questions, not of ours
        "NIGHTLOOM_MODEL_STORE": str(setup.model_store.resolve()),
    }
    # A folder of its own: the served code is the version's, not what lies in a checkout.
    log.unlink(missing_ok=True)
    child = start_server(command, setup.logs, log, environment)
    try:
        if not wait_for_answer(f"{endpoint.address}/ping", child, _START_SECONDS):
            raise _not_served(child, log, f"nightloom-{model} version {version}")
        yield endpoint
    finally:
        end_child(child)


def _not_served(child: "subprocess.Popen[str]", log: Path, what: str) -> StageError:
    how = "ended" if child.poll() is not None else f"did not come up in {_START_SECONDS:.0f} s"
    return StageError(
        f"{what}, served by MLflow, {how}; its log says last:\n{last_log_lines(log)}",
        f"mend what these lines name; all of them are in {log}",
        "ServingError",
    )


def _ask(endpoint: Endpoint, item: Asked, model: ServedModel) -> ServedAnswer:
    """Ask a served version a golden record.

    Raises:
        StageError: it does not answer.
    """
    turns = [{"role": role, "content": content} for role, content in item.turns]
    body = json.dumps({"input": turns}).encode()
    headers = {"content-type": "application/json", **basic_header(endpoint.secret)}
    request = urllib.request.Request(f"{endpoint.address}/invocations", body, headers)
    try:
        with open_directly(request, timeout_seconds=_ANSWER_SECONDS) as response:
            found: Any = json.load(response)
        return ServedAnswer(
            found["output"][0]["content"][0]["text"], found["custom_outputs"]["prompt_sha256"]
        )
    except urllib.error.HTTPError as error:
        reason = f"{error.code}: {error.read().decode(errors='replace')[:800]}"
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise StageError(
        f"the served {model} did not answer record {item.expected.record}: {reason}",
        "ask it by hand: `mlflow models serve --env-manager local -m models:/...`",
        "ServingError",
    )
