"""The Prefect task that has an LLM judge a night's answers, where params name one."""

import json
import os
import sys
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.llm_scorers import LlmJudgeParams, Params
from tasks.orchestration.run_content import metric_name, numbers
from tasks.orchestration.tracking import Tracker
from tasks.records.predictions import PREDICTIONS_FILE
from tasks.records.text import text_sha256
from tasks.services.processes import child_environment, left_failure, run_child, stage_error
from tasks.services.stores import RunRef, Stores
from tasks.stage.errors import FAILURE_FILE
from tasks.stage.outputs import file_sha256
from tasks.stage.params import load_params

JUDGED = "judged"  # what the numbers' names in MLflow begin with


@task(cache_policy=NO_CACHE, persist_result=False)
def judge_answers(root: Path, report: Path, scratch: Path, run: RunRef, stores: Stores) -> None:
    """Log the share of yes by question and system to a run of its own below a night's.

    `report` is evaluation's. The same answers are not judged again by the same params.

    Raises:
        ConfigError: the judge could not be asked, or gave no verdict on some answer.
    """
    file = root / "params" / "judging.yaml"
    params = load_params(Params, [file]).judging
    if params.model is None:
        return
    key = text_sha256(params.model_dump_json(), file_sha256(report / PREDICTIONS_FILE))
    verdicts = scratch / f"{key}.json"
    if not verdicts.exists():
        _run_judge(params, root, report, verdicts, run, stores)
    found = json.loads(verdicts.read_text(encoding="utf-8"))
    tracker = Tracker(stores)
    judged = tracker.begin_judge(run, JUDGED)
    values = {metric_name((JUDGED, *path)): value for path, value in numbers(found)}
    tracker.log_numbers(judged, values)
    tracker.end(judged, finished=True)


def _run_judge(
    params: LlmJudgeParams, root: Path, report: Path, verdicts: Path, run: RunRef, stores: Stores
) -> None:
    """Have the judge write its verdicts.

    In a process of its own: MLflow's scorers want a run that is active in the whole process.
    """
    scratch = verdicts.parent
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / FAILURE_FILE).unlink(missing_ok=True)
    command = [sys.executable, "-m", "tasks.orchestration.llm_scorers"]
    command += ["--params", str(root / "params" / "judging.yaml"), "--report", str(report)]
    command += ["--experiment", run.experiment_id, "--parent", run.run_id]
    command += ["--verdicts", str(verdicts)]
    environment = child_environment() | {"MLFLOW_TRACKING_URI": stores.tracking_uri}
    if params.endpoint is not None and "OPENAI_API_KEY" not in os.environ:
        environment["OPENAI_API_KEY"] = "none"  # MLflow wants one where the endpoint wants none
    child = run_child(command, root, get_run_logger().info, environment)
    if child.code != 0:
        raise stage_error("judging", left_failure(scratch, child))
