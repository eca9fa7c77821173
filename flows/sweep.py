"""Hyperparameter search: many builds up to one stage, each in its own workspace, one parent run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.trial import Trial
from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel

from flows.build import build_stages
from flows.console import make_console
from flows.dvc_leavings import mend_leavings
from flows.environment import find_stores, open_checkout
from flows.graph import read_stage, stage_names
from flows.nightly import forget, refresh
from flows.overrides import override_text, overrides_digest, shown_value, without_file
from flows.parameters import NO_OVERRIDES, OverrideText, PresetName
from flows.run_state import NightLog, new_night_name
from flows.study import Study, SweepParams, Tried, Value, read_sweep, trial_name
from flows.workspace import STATE, Workspace, choose_workspace, night_lock, prepare, share_inputs
from tasks.orchestration.reproduce import StageStoppedError
from tasks.orchestration.tracking import Point, Tracker
from tasks.services.stores import RunRef
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import PROGRESS, flatten, read_curve, read_metrics

_EVALUATION = "evaluation"
_VALIDATION = "evaluation.split=validation"


class TrialFailedError(Exception):
    """A trial's values can't be trained with, which is an answer and ends no sweep."""


class Sweep(BaseModel):
    """What a sweep came to: every trial, and the best one's params as FILE.KEY -> value."""

    study: str
    goal: Literal["minimize", "maximize"]
    trials: list[Tried]
    best: dict[str, Value]
    value: float
    mlflow_run: str

    def as_params(self) -> str:
        """Return the best values as lines of params files."""
        files: dict[str, dict[str, Any]] = {}
        for name, value in self.best.items():
            file, *keys, last = name.split(".")
            place = files.setdefault(file, {})
            for key in keys:
                place = place.setdefault(key, {})
            place[last] = value
        return "\n".join(
            f"# params/{file}.yaml\n{yaml.safe_dump(values, sort_keys=False)}"
            for file, values in files.items()
        )


@dataclass(frozen=True)
class _Trials:
    """What every trial of a sweep shares; `overrides` are the night's, none of the sweep itself."""

    base: Workspace
    preset: str | None
    overrides: Sequence[str]
    params: SweepParams
    study: Study
    tracker: Tracker
    parent: RunRef


def _run_name() -> str:
    return f"sweep {new_night_name(flow_run.scheduled_start_time)}"


@flow(name="sweep", flow_run_name=_run_name, persist_result=False)
def sweep(
    root: str = ".",
    preset: PresetName | None = None,
    overrides: list[OverrideText] = NO_OVERRIDES,
) -> Sweep:
    """Run the trials of a sweep, or those that an interrupted one left, and return them all.

    Args:
        root: A folder of the project. The default is the one that the process runs in.
        preset: A list of values in params/presets, such as `tiny`; none for params/*.yaml as is.
        overrides: Values for this run alone, each FILE.KEY=VALUE (finetuning.epochs=2).

    Raises:
        ConfigError: `params/sweep.yaml` names what is not there.
        NightloomError: no trial gave a value, or a stage before the tuned one failed.
    """
    checkout = open_checkout(Path(root))
    params = read_sweep(checkout, preset, overrides)
    of_night = without_file("sweep", overrides)
    base = choose_workspace(checkout, preset, of_night)
    with night_lock(base.lock):
        prepare(base)
        mend_leavings(base.path)
        name = f"sweep-{new_night_name(datetime.now(UTC))}"
        stores = find_stores(checkout)
        log = _log(base, name)
        forget(base, log)
        refresh(base, log, stores)
        study = Study(base, params, _folder(checkout))
        tracker = Tracker(stores)
        run = tracker.begin_sweep(name, study.name)
        trials = _Trials(base, preset, of_night, params, study, tracker, run)
        best, value = _run_trials(trials)
    return Sweep(
        study=study.name,
        goal=params.goal,
        trials=study.tried(),
        best=best,
        value=value,
        mlflow_run=run.run_id,
    )


def _run_trials(trials: _Trials) -> tuple[dict[str, Value], float]:
    """Run what trials are left, and end the sweep's run; return the best values and their metric.

    Raises:
        DataError: no trial gave a value.
    """
    study, tracker, run = trials.study, trials.tracker, trials.parent
    try:
        for cut in study.take_back():
            tracker.stop_trial(run, cut)
        while not study.is_over:
            _try(trials)
        found = study.best()
    except BaseException:
        tracker.end(run, finished=False)
        raise
    tracker.end(run, finished=True)
    return found


def _folder(checkout: Path) -> Path:
    """Return where sweeps keep what they know, apart from the nights."""
    folder = checkout / STATE / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _log(workspace: Workspace, name: str) -> NightLog:
    """Open the file that says what a sweep or a trial did so far."""
    return NightLog(workspace, name, _folder(workspace.checkout) / f"{name}.json")


def _try(trials: _Trials) -> None:
    """Run one trial, and tell the study its value, that it was stopped, or why it failed."""
    study = trials.study
    trial, values = study.ask()
    try:
        value = _build(trial, values, trials)
    except StageStoppedError:
        study.tell_stopped(trial)
        ended = "stopped: its curve was worse than the median"
    except TrialFailedError as error:
        study.tell_failed(trial, str(error))
        ended = f"failed: {error}"
    else:
        study.tell(trial, value)
        ended = f"{trials.params.metric} {value:.4f}"
    given = ", ".join(f"{name} {shown_value(value)}" for name, value in values.items())
    line = f"{trial_name(trial)} ({given}): {ended}"
    make_console(to_stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _build(trial: Trial, values: dict[str, Value], trials: _Trials) -> float:
    """Build a trial's stages and return its metric.

    Raises:
        StageStoppedError: the curve was worse than the median of those before.
        TrialFailedError: the stage that is tuned failed, with these values.
    """
    params, tracker = trials.params, trials.tracker
    with _workspace(trials, values) as workspace:
        run = tracker.begin_trial(trials.parent, trial_name(trial), values)
        wanted = _built(trials)
        log = _log(workspace, f"trial-{overrides_digest(workspace.overrides)}")
        scratch = workspace.path / workspace.paths().scratch / params.stage
        try:
            watch = trials.study.watch(trial, scratch)
            build_stages(workspace, wanted, log, run, tracker, watch=watch)
            value = _metric(workspace, params, scratch)
        except StageStoppedError:
            tracker.stop(run)
            raise
        except BaseException as error:
            tracker.end(run, finished=False)
            if isinstance(error, DataError | ConfigError) and log.failed_in(params.stage):
                raise TrialFailedError(error.message) from error
            raise
        tracker.log_points(run, [Point(params.metric, value, 0, 0)])
        tracker.end(run, finished=True)
    return value


def _built(trials: _Trials) -> tuple[str, ...]:
    """Return the stages that a trial builds."""
    names = stage_names(trials.base.path)
    return names[: names.index(trials.params.stage) + 1]


@contextmanager
def _workspace(trials: _Trials, values: Mapping[str, Value]) -> Iterator[Workspace]:
    """Hold a workspace of the study's own, with the sweep's rows and models."""
    texts = [*trials.overrides, *(override_text(name, value) for name, value in values.items())]
    if _EVALUATION in _built(trials):
        texts.append(_VALIDATION)  # what chooses may see nothing of what judges
    chosen = choose_workspace(trials.base.checkout, trials.preset, texts)
    folder = _folder(chosen.checkout) / trials.study.name / overrides_digest(chosen.overrides)
    workspace = replace(chosen, path=folder)
    with night_lock(workspace.lock):
        prepare(workspace)
        share_inputs(trials.base, workspace)
        mend_leavings(workspace.path)
        yield workspace


def _metric(workspace: Workspace, params: SweepParams, scratch: Path) -> float:
    """Return what the sweep minimizes or maximizes, from the report of its stage.

    Raises:
        ConfigError: the report has no such number, or the stage no such curve.
    """
    found: dict[str, Any] = {}
    for report in read_stage(workspace.path, params.stage).reports:
        found |= flatten(read_metrics(workspace.path / report))
    value = found.get(params.metric)
    if not isinstance(value, float | int):
        numbers = sorted(name for name, item in found.items() if isinstance(item, float | int))
        raise ConfigError(
            f"params/sweep.yaml would {params.goal} {params.metric!r}, which is no number of the "
            f"report of {params.stage}",
            f"name one of {', '.join(numbers)}",
        )
    # A stage that DVC restored has left no curves at all.
    curve = params.curve
    if curve and read_curve(scratch, PROGRESS) and not read_curve(scratch, curve):
        raise ConfigError(
            f"params/sweep.yaml stops trials by the curve {curve!r}, and {params.stage} writes "
            "none of that name",
            "name one that its runs show in MLflow, such as validation_loss, or null for none",
        )
    return float(value)
