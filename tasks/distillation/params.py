"""Params of the distillation stage."""

from typing import Literal

from pydantic import Field

from tasks.lm.params import TrainingParams
from tasks.stage.params import ComputeParams, ModelsParams, StageParams


class DistillationParams(TrainingParams):
    """`params/distillation.yaml`."""

    student_layers: int = Field(ge=1)
    temperature: float = Field(gt=0, le=100)
    kl_weight: float = Field(ge=0, le=1)
    influence_examples: int = Field(ge=1)
    saved_dtype: Literal["float32", "bfloat16"]


class Params(StageParams):
    """What the stage reads."""

    distillation: DistillationParams
    models: ModelsParams
    compute: ComputeParams
