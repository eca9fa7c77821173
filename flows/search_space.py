"""What a sweep tries: `params/sweep.yaml`."""

from typing import Any, Literal, Self, cast

from optuna.trial import Trial
from pydantic import Field, model_validator

from tasks.stage.params import StageParams

Value = int | float | str | bool


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
        """The value that a trial tries."""
        if self.draw == "whole":
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.draw == "log")


class Choices(StageParams):
    """One of these."""

    choices: list[Value] = Field(min_length=1)

    def suggest(self, trial: Trial, name: str) -> Value:
        """The value that a trial tries."""
        chosen: Any = trial.suggest_categorical(name, self.choices)
        return cast(Value, chosen)


class SweepParams(StageParams):
    """`params/sweep.yaml`."""

    stage: str
    metric: str
    curve: str
    trials: int = Field(ge=1)
    startup_trials: int = Field(ge=1)
    seed: int = Field(ge=0)
    space: dict[str, Range | Choices] = Field(min_length=1)


class Params(StageParams):
    """The params of a sweep."""

    sweep: SweepParams
