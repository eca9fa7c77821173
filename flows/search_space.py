"""What a sweep tries: `params/sweep.yaml`."""

from typing import Any, cast

from optuna.trial import Trial
from pydantic import Field, model_validator

from tasks.stage.params import StageParams

Value = int | float | str | bool


class Dimension(StageParams):
    """One param of the space: a range or a list of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: list[Value] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "Dimension":
        is_range = self.low is not None and self.high is not None and self.low < self.high
        if is_range == (self.choices is not None):
            raise ValueError("give low below high, or choices")
        return self

    def suggest(self, trial: Trial, name: str) -> Value:
        """The value that a trial tries."""
        if self.choices is not None:
            chosen: Any = trial.suggest_categorical(name, self.choices)
            return cast(Value, chosen)
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


class SweepParams(StageParams):
    """`params/sweep.yaml`."""

    stage: str
    metric: str
    curve: str
    trials: int = Field(ge=1)
    startup_trials: int = Field(ge=1)
    seed: int = Field(ge=0)
    space: dict[str, Dimension] = Field(min_length=1)


class Params(StageParams):
    """The params of a sweep."""

    sweep: SweepParams
