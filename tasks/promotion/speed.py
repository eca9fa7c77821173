"""Speed: what models took in turns with their base, and the ratios that the rule reads."""

import statistics
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.records.schema import ServedModel
from tasks.scoring.release_evidence import ReleaseEvidence, Strict

SPEED_FILE = "speed.json"

# With fewer, the bootstrap's interval of a median says too little.
LEAST_ROUNDS = 5

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Turn(Strict):
    """What one model took for a round's prompt and the new tokens, in seconds.

    `cpu_seconds` are those that the machine's cores spent in the measuring process.
    """

    seconds: _Seconds
    first_token_seconds: _Seconds
    cpu_seconds: _Seconds


class Ratio(Strict):
    """A model's median over the base's, and its bootstrap interval over rounds."""

    value: _Ratio
    low: _Ratio
    high: _Ratio


class OverBase(Strict):
    """A model beside the base: by the clock, and by the seconds that the cores spent."""

    seconds: Ratio
    cpu_seconds: Ratio


class Speed(ReleaseEvidence):
    """`speed.json`: turns by round and system, and what they show of each model of a bundle.

    In a turn a model reads one prompt and makes `new_tokens` tokens, also where it would have
    stopped before: the ratios are of the same work. `over_base` lacks what no round measured.
    `load_average` is the machine's over the minute before: how many processes wanted to run.
    """

    holds: ClassVar[str] = "what each model took in turns with its base"
    task: ClassVar[str] = "speed"

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
