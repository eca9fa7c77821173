"""Hyperparameter search: many builds up to one stage, each in its own workspace, one parent run."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, Trial, TrialState
from prefect import flow
from pydantic import BaseModel

from flows.build import build_stages
from flows.environment import find_stores
from flows.graph import read_stage, stage_names
from flows.lock import night_lock
from flows.nightly import refresh
from flows.nights import NightLog, new_night_name
from flows.overrides import digest, override_text
from flows.search_space import Params, SweepParams, Value
from flows.summary import make_console
from flows.workspace import STATE, Workspace, choose_workspace, find_checkout, prepare
from tasks.orchestration.reproduce import StageStoppedError
from tasks.orchestration.stores import RunRef
from tasks.orchestration.tracking import Point, Tracker
from tasks.records.hashing import text_sha256
from tasks.stage.errors import ConfigError, DataError, DeviceError
from tasks.stage.metrics import flatten, read_metrics
from tasks.stage.outputs import folder_files
from tasks.stage.params import load_params

_SHARED_BY_TRIALS = ("ingestion.", "models.base", "models.embedder")
_OF_A_TRIAL = (ConfigError, DataError, DeviceError)
# What a study keeps of a trial beside its values.
_REASON, _CURVE = "reason", "curve"


class TrialFailedError(Exception):
    """A trial's values can't be trained with, which is an answer and ends no sweep."""


class Tried(BaseModel):
    """One trial."""

    number: int
    state: str
    value: float | None
    params: dict[str, Value]
    reason: str | None


class Sweep(BaseModel):
    """What a sweep came to: every trial, and the best one's params as FILE.KEY -> value."""

    study: str
    trials: list[Tried]
    best: dict[str, Value]
    value: float
    mlflow_run: str

    def as_params(self) -> str:
        """The best values as lines of params files."""
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


@flow(name="sweep", persist_result=False)
def sweep(root: str = ".", preset: str | None = None, overrides: Sequence[str] = ()) -> Sweep:
    """Every trial of a sweep; one that was interrupted goes on.

    Raises:
        ConfigError: `params/sweep.yaml` names what is not there.
        NightloomError: a trial failed.
    """
    checkout = find_checkout(Path(root))
    base = choose_workspace(checkout, preset, overrides)
    with night_lock(base.lock):
        prepare(base)
        params = load_params(Params, [base.path / "params" / "sweep.yaml"]).sweep
        _check(base, params)
        name = f"sweep-{new_night_name(datetime.now(UTC))}"
        refresh(base, _log(base, name))
        study = _study(base, params)
        tracker = Tracker(find_stores(checkout))
        run = tracker.begin_sweep(name, study.study_name)
        trials = _Trials(study, base, preset, list(overrides), run, tracker, params)
        try:
            _go_on(trials)
            while len(_over(study)) < params.trials:
                _try(trials)
            result = _result(study, run)
        except BaseException:
            tracker.end(run, finished=False)
            raise
        tracker.end(run, finished=True)
    return result


def _log(workspace: Workspace, name: str) -> NightLog:
    """What a sweep or a trial did so far, apart from the nights."""
    return NightLog(workspace, name, _folder(workspace) / f"{name}.json")


def _folder(workspace: Workspace) -> Path:
    folder = workspace.checkout / STATE / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class _Trials:
    """What every trial of a sweep shares."""

    study: optuna.Study
    base: Workspace
    preset: str | None
    overrides: list[str]
    parent: RunRef
    tracker: Tracker
    params: SweepParams


def _check(base: Workspace, params: SweepParams) -> None:
    """That the sweep's stage and params exist, and that the params make a difference to it.

    Raises:
        ConfigError: one does not.
    """
    names = stage_names(base.path)
    if params.stage not in names:
        raise ConfigError(
            f"params/sweep.yaml tunes the stage {params.stage!r}; dvc.yaml has {', '.join(names)}",
            "name one of these",
        )
    choose_workspace(base.checkout, None, [f"{name}=0" for name in params.space])
    wanted = names[: names.index(params.stage) + 1]
    read = {Path(file).stem for name in wanted for file in read_stage(base.path, name).params}
    idle = [
        name
        for name in params.space
        if name.partition(".")[0] not in read or name.startswith(_SHARED_BY_TRIALS)
    ]
    if idle:
        raise ConfigError(
            f"the space of params/sweep.yaml holds {', '.join(idle)}, which would change nothing: "
            f"all trials share rows and models, and {params.stage} and those before it read "
            f"{', '.join(sorted(read))}",
            "leave it out, or tune a stage that reads it",
        )


def _study(base: Workspace, params: SweepParams) -> optuna.Study:
    """The study of this space on this data, which an earlier sweep may have begun."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    raw = base.path / base.paths().raw
    other = [
        f"{path.name}:{path.read_text(encoding='utf-8')}"
        for path in sorted((base.path / "params").glob("*.yaml"))
        if path.stem not in ("sweep", "compute", "promotion")
    ]
    space = params.model_dump_json(exclude={"trials"})
    study = optuna.create_study(
        study_name=text_sha256(space, *other, *folder_files(raw).values())[:12],
        storage=f"sqlite:///{_folder(base) / 'studies.db'}",
        load_if_exists=True,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=params.startup_trials),
    )
    # A sampler's random numbers are in no store: the same seed again would draw the same values.
    study.sampler = optuna.samplers.TPESampler(
        seed=params.seed + len(study.trials), n_startup_trials=params.startup_trials
    )
    return study


def _over(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that need no other try: those with a value, those stopped, those that failed."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=ended)
        if trial.state != TrialState.FAIL or _REASON in trial.user_attrs
    ]


def _go_on(trials: _Trials) -> None:
    """Let a trial that a kill cut short be tried again, first of all."""
    study = trials.study
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        trials.tracker.stop_trial(trials.parent, _name(trial))
        curve = {_CURVE: trial.user_attrs.get(_CURVE, [])}
        study.enqueue_trial(trial.params, user_attrs=curve)


def _name(trial: Trial | FrozenTrial) -> str:
    return f"trial-{trial.number}"


def _try(trials: _Trials) -> None:
    """One trial, told to the study: its value, that it was stopped, or why it failed."""
    study, space = trials.study, trials.params.space
    trial = study.ask()
    values = {name: dimension.suggest(trial, name) for name, dimension in space.items()}
    try:
        value = _build(trial, values, trials)
    except StageStoppedError:
        study.tell(trial, state=TrialState.PRUNED)
        ended = "stopped: its curve was worse than the median"
    except TrialFailedError as error:
        trial.set_user_attr(_REASON, str(error))
        study.tell(trial, state=TrialState.FAIL)
        ended = f"failed: {error}"
    else:
        study.tell(trial, value)
        ended = f"{trials.params.metric} {value:.4f}"
    given = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
    make_console(to_stderr=True).print(
        f"{_name(trial)} ({given}): {ended}", highlight=False, markup=False, soft_wrap=True
    )


def _build(trial: Trial, values: dict[str, Value], trials: _Trials) -> float:
    """The metric of a trial's build.

    Raises:
        StageStoppedError: the curve was worse than the median of those before.
        TrialFailedError: the stage that is tuned failed, with these values.
    """
    params, tracker = trials.params, trials.tracker
    with _workspace(trials, values) as workspace:
        run = tracker.begin_trial(trials.parent, _name(trial), values)
        names = stage_names(workspace.path)
        wanted = names[: names.index(params.stage) + 1]
        log = _log(workspace, f"trial-{digest(workspace.overrides)}")
        try:
            build_stages(workspace, wanted, log, run, tracker, watch=_watch(trial, params))
            value = _metric(workspace, params)
        except StageStoppedError:
            tracker.stop(run)
            raise
        except BaseException as error:
            tracker.end(run, finished=False)
            if isinstance(error, _OF_A_TRIAL) and log.now.step == params.stage:
                raise TrialFailedError(error.message) from error
            raise
        tracker.log_points(run, [Point(params.metric, value, 0, 0)])
        tracker.end(run, finished=True)
    return value


@contextmanager
def _workspace(trials: _Trials, values: dict[str, Value]) -> Iterator[Workspace]:
    """A workspace with a trial's values, held, and the rows and models that the sweep began with.

    Where the params have these values already it is the sweep's own, which is held.
    """
    texts = trials.overrides + [override_text(name, value) for name, value in values.items()]
    workspace = choose_workspace(trials.base.checkout, trials.preset, texts)
    if workspace.path == trials.base.path:
        yield workspace
        return
    with night_lock(workspace.lock):
        prepare(workspace)
        _share_inputs(trials.base, workspace)
        yield workspace


def _metric(workspace: Workspace, params: SweepParams) -> float:
    """What the sweep minimises, from the report of its stage.

    Raises:
        ConfigError: the report has no such number.
    """
    found: dict[str, Any] = {}
    for report in read_stage(workspace.path, params.stage).reports:
        found |= flatten(read_metrics(workspace.path / report))
    value = found.get(params.metric)
    if not isinstance(value, float | int):
        numbers = sorted(name for name, item in found.items() if isinstance(item, float | int))
        raise ConfigError(
            f"params/sweep.yaml minimises {params.metric!r}, which is no number of the report of "
            f"{params.stage}",
            f"name one of {', '.join(numbers)}",
        )
    return float(value)


def _share_inputs(base: Workspace, workspace: Workspace) -> None:
    """Let a trial read the very rows and models that the sweep began with."""
    paths = base.paths()
    target = workspace.path / paths.raw
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base.path / paths.raw, target, copy_function=_link)
    for name in (paths.base, paths.embedder):
        (workspace.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base.path / name, workspace.path / name)


def _link(source: str, target: str) -> None:
    """A second name for a file; where file systems differ, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _watch(trial: Trial, params: SweepParams) -> Callable[[str, Point], bool]:
    """Whether a point of a stage's curves says that the trial should stop.

    Trials are compared evaluation by evaluation, whatever optimizer step each was taken at. A trial
    that goes on after a kill has the evaluations of before.
    """
    curve: list[list[float]] = list(trial.user_attrs.get(_CURVE, []))
    for place, (_, value) in enumerate(curve):
        trial.report(value, place)

    def stop(stage: str, point: Point) -> bool:
        if stage != params.stage or point.name != params.curve or point.step == 0:
            return False
        if point.step not in [step for step, _ in curve]:
            curve.append([point.step, point.value])
            trial.set_user_attr(_CURVE, curve)
            trial.report(point.value, len(curve) - 1)
        return bool(trial.should_prune())

    return stop


def _result(study: optuna.Study, run: RunRef) -> Sweep:
    """What the trials came to.

    Raises:
        DataError: not one of them gave a value.
    """
    trials = study.get_trials(deepcopy=False)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        reasons = [trial.user_attrs[_REASON] for trial in trials if _REASON in trial.user_attrs]
        raise DataError(
            f"no trial of {len(_over(study))} gave a value; the last one: {reasons[-1]}",
            "change the space in params/sweep.yaml, or what its message names",
        )
    tried = [
        Tried(
            number=trial.number,
            state=trial.state.name.lower(),
            value=trial.value,
            params=trial.params,
            reason=trial.user_attrs.get(_REASON),
        )
        for trial in trials
    ]
    return Sweep(
        study=study.study_name,
        trials=tried,
        best=study.best_params,
        value=study.best_value,
        mlflow_run=run.run_id,
    )
