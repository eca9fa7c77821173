"""Hyperparameter search: many builds up to one stage, each in its own workspace, one parent run."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import Trial, TrialState
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
from flows.workspace import STATE, Workspace, choose_workspace, find_checkout, prepare
from tasks.orchestration.reproduce import StageStoppedError
from tasks.orchestration.stores import RunRef
from tasks.orchestration.tracking import Point, Tracker
from tasks.records.hashing import text_sha256
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import flatten, read_metrics
from tasks.stage.outputs import folder_files
from tasks.stage.params import load_params


class Tried(BaseModel):
    """One trial."""

    number: int
    state: str
    value: float | None
    params: dict[str, Value]


class Sweep(BaseModel):
    """What a sweep came to: every trial, and the best one's params as FILE.KEY -> value."""

    study: str
    trials: list[Tried]
    best: dict[str, Value]
    value: float
    mlflow_run: str

    def as_params(self) -> str:
        """The best values as lines of params files."""
        files: dict[str, dict[str, Value]] = {}
        for name, value in self.best.items():
            file, _, key = name.partition(".")
            files.setdefault(file, {})[key] = value
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
        tracker = Tracker(find_stores(checkout))
        run = tracker.begin_night(name, {"nightloom.sweep": params.stage})
        try:
            refresh(base, _log(base, name))
            study = _study(base, params)
            _go_on(study)
            trials = _Trials(base, preset, list(overrides), run, tracker, params)
            while len(_over(study)) < params.trials:
                _try(study, trials)
        except BaseException:
            tracker.end(run, finished=False)
            raise
        tracker.end(run, finished=True)
    return _result(study, run)


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

    base: Workspace
    preset: str | None
    overrides: list[str]
    parent: RunRef
    tracker: Tracker
    params: SweepParams


def _check(base: Workspace, params: SweepParams) -> None:
    """That the sweep's stage and params exist.

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
    name = text_sha256(space, *other, *folder_files(raw).values())[:12]
    return optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{_folder(base) / 'studies.db'}",
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(
            seed=params.seed, n_startup_trials=params.startup_trials
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=params.startup_trials),
    )


def _over(study: optuna.Study) -> list[Any]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _go_on(study: optuna.Study) -> None:
    """Let a trial that a kill cut short be tried again, first of all."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _try(study: optuna.Study, trials: _Trials) -> None:
    """One trial, told to the study: its value, or that it was stopped."""
    trial = study.ask()
    space = trials.params.space
    values = {name: dimension.suggest(trial, name) for name, dimension in space.items()}
    try:
        value = _build(trial, values, trials)
    except StageStoppedError:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)


def _build(trial: Trial, values: dict[str, Value], trials: _Trials) -> float:
    """The metric of a trial's build.

    Raises:
        StageStoppedError: the curve was worse than the median of those before.
    """
    params, tracker = trials.params, trials.tracker
    texts = trials.overrides + [override_text(name, value) for name, value in values.items()]
    workspace = choose_workspace(trials.base.checkout, trials.preset, texts)
    with night_lock(workspace.lock):
        prepare(workspace)
        _share_inputs(trials.base, workspace)
        run = tracker.begin_trial(trials.parent, f"trial-{trial.number}", values)
        names = stage_names(workspace.path)
        wanted = names[: names.index(params.stage) + 1]
        log = _log(workspace, f"trial-{digest(workspace.overrides)}")
        try:
            build_stages(workspace, wanted, log, run, tracker, watch=_watch(trial, params))
            value = _metric(workspace, params)
        except StageStoppedError:
            tracker.stop(run)
            raise
        except BaseException:
            tracker.end(run, finished=False)
            raise
        tracker.log_points(run, [Point(params.metric, value, 0, 0)])
        tracker.end(run, finished=True)
    return value


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
    shutil.copytree(base.path / paths.raw, target, copy_function=os.link)
    for name in (paths.base, paths.embedder):
        (workspace.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base.path / name, workspace.path / name)


def _watch(trial: Trial, params: SweepParams) -> Callable[[str, Point], bool]:
    """Whether a point of a stage's curves says that the trial should stop."""

    def stop(stage: str, point: Point) -> bool:
        if stage != params.stage or point.name != params.curve or point.step == 0:
            return False
        trial.report(point.value, point.step)
        return bool(trial.should_prune())

    return stop


def _result(study: optuna.Study, run: RunRef) -> Sweep:
    trials = [
        Tried(
            number=trial.number,
            state=trial.state.name.lower(),
            value=trial.value,
            params=trial.params,
        )
        for trial in study.get_trials(deepcopy=False)
    ]
    return Sweep(
        study=study.study_name,
        trials=trials,
        best=study.best_params,
        value=study.best_value,
        mlflow_run=run.run_id,
    )
