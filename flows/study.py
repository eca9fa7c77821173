"""A sweep's space, `params/sweep.yaml`, and its trials so far: Optuna's study, in a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, Field, model_validator

from flows.graph import params_files, stage_names
from flows.overrides import apply_overrides, read_overrides
from flows.workspace import Workspace
from tasks.orchestration.tracking import Point
from tasks.records.text import text_sha256
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_curve
from tasks.stage.outputs import folder_files
from tasks.stage.params import StageParams, read_yaml, validate_params

Value = int | float | str | bool

_EVALUATION = "evaluation"

_SHARED_BY_TRIALS = (
    "ingestion.",
    "models.base",
    "models.embedder",
    "models.student",
    "reranking.model",
)


class Range(StageParams):
    """Numbers from `low` to `high`: uniform, uniform in their logarithm, or whole ones."""

    low: float
    high: float
    draw: Literal["uniform", "log", "whole"]

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.draw == "log" and self.low <= 0:
            raise ValueError("low must be above 0 where draw is log")
        if self.draw == "whole" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("low and high must be whole where draw is whole")
        return self

    def suggest(self, trial: Trial, name: str) -> Value:
        """Return the value that a trial tries."""
        if self.draw == "whole":
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.draw == "log")


class Choices(StageParams):
    """One of these."""

    choices: list[Value] = Field(min_length=1)

    def suggest(self, trial: Trial, name: str) -> Value:
        """Return the value that a trial tries."""
        chosen: Any = trial.suggest_categorical(name, self.choices)
        return cast(Value, chosen)


class SweepParams(StageParams):
    """`params/sweep.yaml`."""

    stage: str
    metric: str
    goal: Literal["minimize", "maximize"]
    curve: str | None
    trials: int = Field(ge=1)
    startup_trials: int = Field(ge=1)
    seed: int = Field(ge=0)
    space: dict[str, Range | Choices] = Field(min_length=1)


class Params(StageParams):
    """The params of a sweep."""

    sweep: SweepParams


def read_sweep(checkout: Path, preset: str | None, overrides: Sequence[str]) -> SweepParams:
    """Return a sweep's own params, which no workspace depends on, once they are checked.

    Raises:
        ConfigError: they name a stage or a param that is not there, or that matters to no trial.
    """
    path = checkout / "params" / "sweep.yaml"
    content = read_yaml(path)
    apply_overrides(content, path.stem, read_overrides(checkout, preset, overrides))
    params = validate_params(Params, {path.stem: content}, [path]).sweep
    names = stage_names(checkout)
    if params.stage not in names:
        raise ConfigError(
            f"params/sweep.yaml tunes the stage {params.stage!r}; dvc.yaml has {', '.join(names)}",
            "name one of these",
        )
    if params.stage in names[names.index(_EVALUATION) + 1 :]:
        raise ConfigError(
            f"params/sweep.yaml tunes the stage {params.stage!r}, which needs answers on the test "
            "split; a sweep chooses on the validation split alone",
            f"tune {_EVALUATION}, or a stage before it",
        )
    read_overrides(checkout, None, [f"{name}=0" for name in params.space])
    files = params_files(checkout, names[: names.index(params.stage) + 1])
    read = {Path(file).stem for file in files}
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
    return params


_REASON = "reason"  # what the study keeps of a trial that failed

_NOT_STUDIED = ("sweep", "compute", "promotion", "notify")  # params that change no training


class Tried(BaseModel):
    """One trial; `reason` says why it failed."""

    number: int
    state: str
    value: float | None
    params: dict[str, Value]
    reason: str | None


class Study:
    """The trials so far of a sweep, which an earlier call may have begun."""

    def __init__(self, base: Workspace, params: SweepParams, folder: Path) -> None:
        """Open the study of this space on the base's rows, models and params."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._params = params
        self._study = optuna.create_study(
            study_name=_name(base, params),
            storage=f"sqlite:///{folder / 'studies.db'}",
            load_if_exists=True,
            direction=params.goal,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=params.startup_trials),
        )
        # A sampler's random numbers are in no store: the same seed again would draw the same.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=params.seed + len(self._study.trials), n_startup_trials=params.startup_trials
        )

    @property
    def name(self) -> str:
        """Return twelve hex digits that stand for space, rows, models and params."""
        return str(self._study.study_name)

    @property
    def is_over(self) -> bool:
        """Return whether as many trials as were asked for have a value, or a reason for none.

        A trial that a kill cut short has none.
        """
        answered = [
            trial
            for trial in self._trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
            if trial.state != TrialState.FAIL or _REASON in trial.user_attrs
        ]
        return len(answered) >= self._params.trials

    def take_back(self) -> list[str]:
        """Queue the trials that a kill cut short, to be tried first, and return their names."""
        cut = self._trials(TrialState.RUNNING)
        for trial in cut:
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._study.enqueue_trial(trial.params)
        return [trial_name(trial) for trial in cut]

    def ask(self) -> tuple[Trial, dict[str, Value]]:
        """Return the next trial, and what it tries as FILE.KEY -> value."""
        trial = self._study.ask()
        space = self._params.space
        return trial, {name: item.suggest(trial, name) for name, item in space.items()}

    def tell(self, trial: Trial, value: float) -> None:
        """Keep what a trial came to."""
        self._study.tell(trial, value)

    def tell_stopped(self, trial: Trial) -> None:
        """Keep that a trial was stopped by its curve."""
        self._study.tell(trial, state=TrialState.PRUNED)

    def tell_failed(self, trial: Trial, reason: str) -> None:
        """Keep that a trial's values can't be trained with, and why."""
        trial.set_user_attr(_REASON, reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def watch(self, trial: Trial, scratch: Path) -> Callable[[str, Point], bool]:
        """Return a call that says whether a new point of a stage's curves should stop the trial.

        Trials are compared evaluation by evaluation, whatever optimizer step each was taken at; a
        training that goes on after a kill has those of before in its file. The curve is a loss,
        whatever the goal: where that is to maximize, Optuna is told its negative.
        """
        params, reported = self._params, 0
        sign = 1 if params.goal == "minimize" else -1

        def should_stop(stage: str, point: Point) -> bool:
            nonlocal reported
            if params.curve is None or point.name != params.curve:
                return False
            if stage != params.stage or point.step == 0:
                return False
            taken = [value for step, value in read_curve(scratch, params.curve) if step > 0]
            for place in range(reported, len(taken)):
                trial.report(sign * taken[place], place)
            reported = len(taken)
            return bool(trial.should_prune())

        return should_stop

    def tried(self) -> list[Tried]:
        """Return every trial so far."""
        return [
            Tried(
                number=trial.number,
                state=trial.state.name.lower(),
                value=trial.value,
                params=trial.params,
                reason=trial.user_attrs.get(_REASON),
            )
            for trial in self._trials()
        ]

    def best(self) -> tuple[dict[str, Value], float]:
        """Return the best trial's values, and what it came to.

        Raises:
            DataError: not one of them gave a value.
        """
        if not self._trials(TrialState.COMPLETE):
            reasons = [trial.reason for trial in self.tried() if trial.reason]
            raise DataError(
                f"no trial of {len(reasons)} gave a value; the last one: {reasons[-1]}",
                "change the space in params/sweep.yaml, or what its message names",
            )
        return self._study.best_params, self._study.best_value

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        found: list[Any] = self._study.get_trials(deepcopy=False, states=states or None)
        return found


def trial_name(trial: Trial | FrozenTrial) -> str:
    """Return what a trial is called."""
    return f"trial-{trial.number}"


def _name(base: Workspace, params: SweepParams) -> str:
    """Return a digest of all that a trial's value depends on beside its own values."""
    paths = base.paths()
    manifests = (paths.base, paths.embedder, paths.reranker, paths.student_base)
    models = [(base.path / name).read_text("utf-8") for name in manifests]
    settings = [
        f"{path.name}:{path.read_text(encoding='utf-8')}"
        for path in sorted((base.path / "params").glob("*.yaml"))
        if path.stem not in _NOT_STUDIED
    ]
    rows = folder_files(base.path / paths.raw).values()
    space = params.model_dump_json(exclude={"trials"})
    return text_sha256(space, *settings, *models, *rows)[:12]
