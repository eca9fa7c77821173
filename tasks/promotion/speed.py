"""Speed: what models took in turns with their base, and the ratios that the rule reads."""

import statistics
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.records.schema import ServedModel
from tasks.stage.errors import DataError

SPEED_FILE = "speed.json"

# With fewer, the bootstrap's interval of a median says too little.
LEAST_ROUNDS = 5

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Turn(_Strict):
    """What one model took for a round's prompt and the new tokens, in seconds.

    `cpu_seconds` are those that the machine's cores spent in the measuring process.
    """

    seconds: _Seconds
    first_token_seconds: _Seconds
    cpu_seconds: _Seconds


class Ratio(_Strict):
    """A model's median over the base's, and its bootstrap interval over rounds."""

    value: _Ratio
    low: _Ratio
    high: _Ratio


class OverBase(_Strict):
    """A model beside the base: by the clock, and by the seconds that the cores spent."""

    seconds: Ratio
    cpu_seconds: Ratio


class Speed(_Strict):
    """`speed.json`: turns by round and system, and what they show of each model of a bundle.

    In a turn a model reads one prompt and makes `new_tokens` tokens, also where it would have
    stopped before: the ratios are of the same work. `over_base` lacks what no round measured.
    `load_average` is the machine's over the minute before: how many processes wanted to run.
    """

    bundle_sha256: str
    device: Literal["cpu", "cuda"]
    machine: str
    cores: int = Field(ge=1)
    threads: int = Field(ge=1)
    load_average: float = Field(ge=0)
    new_tokens: int = Field(ge=2)
    prompt_tokens: dict[str, tuple[int, ...]]
    confidence: float = Field(gt=0.5, lt=1)
    rounds: tuple[dict[Literal["base", "adapter", "student"], Turn], ...]
    over_base: dict[ServedModel, OverBase]

    @classmethod
    def read(cls, path: Path) -> "Speed":
        """Return the speed in a file.

        Raises:
            DataError: it is something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(
                f"{path} holds no speed that can be judged: {error}",
                "`nightloom release` writes it again, by its task `speed`",
            ) from None

    def summary(self, model: ServedModel) -> str:
        """Return what a person asks of a model's speed, in a sentence."""
        found = self.over_base.get(model)
        if found is None:
            return f"{model}: no round was measured"
        turns = [turn for one in self.rounds for name, turn in one.items() if name == model]
        first = statistics.median(turn.first_token_seconds for turn in turns)
        rest = statistics.median(turn.seconds - turn.first_token_seconds for turn in turns)
        time = found.seconds
        return (
            f"{model}: {time.value:.2f} times the base's time for the same work [{time.low:.2f}, "
            f"{time.high:.2f}], first token after {first:.2f} s, "
            f"{(self.new_tokens - 1) / rest:.1f} tokens a second; {len(turns)} rounds, "
            f"{self.threads} threads"
        )
