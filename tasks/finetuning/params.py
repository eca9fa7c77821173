"""Params of the finetuning stage."""

from typing import Literal

from pydantic import Field

from tasks.lm.params import TrainingParams
from tasks.stage.params import ComputeParams, ModelsParams, StageParams


class FinetuningParams(TrainingParams):
    """`params/finetuning.yaml`."""

    method: Literal["qlora", "lora"]
    rank: int = Field(ge=1, le=1024)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    dtype: Literal["float32", "bfloat16"]


class Params(StageParams):
    """What the stage reads."""

    finetuning: FinetuningParams
    models: ModelsParams
    compute: ComputeParams
