"""Score answers with an LLM judge, by MLflow's scorers: one MLflow run a system.

`python -m tasks.orchestration.llm_scorers`; the scores go to MLFLOW_TRACKING_URI's store."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from pydantic import Field

from tasks.orchestration.tracking import Tracker
from tasks.records.predictions import PREDICTIONS_FILE, Prediction, read_predictions
from tasks.services.stores import RunRef, Stores
from tasks.stage.errors import ConfigError, Failure, NightloomError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_atomically
from tasks.stage.params import StageParams, load_params

_CALLS = "/chat/completions"


class LlmJudgeParams(StageParams):
    """`params/judging.yaml`."""

    model: str | None = Field(pattern=r"^[a-z_]+:/.+", description="PROVIDER:/NAME, or no judge")
    endpoint: str | None = Field(pattern=r"^https?://.+", description="base URL, or the provider's")
    systems: list[str] = Field(min_length=1, description="whose answers are judged")
    records: int = Field(ge=1, le=100_000, description="records whose answers are judged")
    questions: dict[str, str] = Field(
        min_length=1, description="name: what is asked of each answer, yes or no, in MLflow's form"
    )


class Params(StageParams):
    """The file that judging is given."""

    judging: LlmJudgeParams


def judge_report(
    params: LlmJudgeParams, report: Path, tracker: Tracker, night: RunRef
) -> dict[str, dict[str, float | int]]:
    """Return, by system, the share of yes to each question, and over how many records.

    Raises:
        ConfigError: a system was not asked, a question is not in MLflow's form, or an answer has no
            verdict: MLflow gives empty metrics and a warning then, which would read as no news.
    """
    mode = read_metrics(report)["primary"]["mode"]
    rows = [row for row in read_predictions(report / PREDICTIONS_FILE) if row.mode == mode]
    asked = list(dict.fromkeys(row.system for row in rows))
    missing = [name for name in params.systems if name not in asked]
    if missing:
        raise ConfigError(
            f"params/judging.yaml names the system {missing[0]}, which has no answers in mode "
            f"{mode}; evaluation asked {', '.join(asked)}",
            "name some of these in judging.systems",
        )
    scorers = _scorers(params)
    found = {}
    for system in params.systems:
        own = [row for row in rows if row.system == system][: params.records]
        run = tracker.begin_judge(night, f"judge of {system}")
        found[system] = _judge_system(scorers, own, run.run_id) | {"records": len(own)}
        print(f"{system}: {found[system]}", flush=True)
    return found


def _scorers(params: LlmJudgeParams) -> dict[str, Any]:
    from mlflow.genai import make_judge

    endpoint = None if params.endpoint is None else params.endpoint.rstrip("/") + _CALLS
    try:
        return {
            name: make_judge(
                name=name,
                instructions=text,
                model=params.model,
                feedback_value_type=bool,
                base_url=endpoint,
            )
            for name, text in params.questions.items()
        }
    except Exception as error:  # MLflow's own, of several kinds
        raise ConfigError(
            f"MLflow takes no scorer from judging.questions: {error}",
            "write text that holds {{ inputs }}, {{ outputs }} or {{ expectations }}",
        ) from error


def _judge_system(
    scorers: Mapping[str, Any], rows: Sequence[Prediction], run_id: str
) -> dict[str, float | int]:
    data = [
        {
            "inputs": {"question": row.question},
            "outputs": row.output,
            "expectations": {"expected_response": row.reference},
        }
        for row in rows
    ]
    with mlflow.start_run(run_id=run_id):
        result = mlflow.genai.evaluate(data=data, scorers=list(scorers.values()))
    table = result.result_df
    return {name: _share(name, table, result.metrics, len(rows)) for name in scorers}


def _share(name: str, table: Any, metrics: Mapping[str, Any], count: int) -> float:
    """Return the share of yes, if every answer has a verdict."""
    column, reasons = f"{name}/value", f"{name}/error_message"
    values = [] if column not in table else table[column].dropna().tolist()
    if len(values) != count or f"{name}/mean" not in metrics:
        said = [] if reasons not in table else table[reasons].dropna().tolist()
        raise ConfigError(
            f"the judge gave a verdict on {len(values)} of {count} answers ({name}); expected one "
            "on each, since a share of some would read as that of all"
            + (f"; the first that failed: {str(said[0])[:300]}" if said else ""),
            "look at judging.model, judging.endpoint and the key in the environment, or set "
            "judging.model to null",
        )
    return float(sum(map(bool, values)) / count)


def main(arguments: list[str] | None = None) -> int:
    """Write the verdicts; return 0, or 1 with the reason beside them and on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.orchestration.llm_scorers", description=__doc__
    )
    parser.add_argument("--params", type=Path, required=True, help="params/judging.yaml")
    parser.add_argument("--report", type=Path, required=True, help="evaluation's report")
    parser.add_argument("--experiment", required=True, help="MLflow's id of the experiment")
    parser.add_argument("--parent", required=True, help="MLflow's id of the night's run")
    parser.add_argument("--verdicts", type=Path, required=True, help="(written)")
    options = parser.parse_args(arguments)
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    mlflow.set_experiment(experiment_id=options.experiment)
    try:
        params = load_params(Params, [options.params]).judging
        tracker = Tracker(Stores(os.environ["MLFLOW_TRACKING_URI"], None))
        night = RunRef(options.experiment, options.parent)
        found = judge_report(params, options.report, tracker, night)
    except NightloomError as error:
        Failure.of(error).write(options.verdicts.parent)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    write_atomically(options.verdicts, json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
