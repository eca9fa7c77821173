"""Params of the distillation stage."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.lm.params import TrainingParams
from tasks.stage.params import ComputeParams, ModelsParams, StageParams


class ObjectiveParams(StageParams):
    """What the loss of a student is made of: a weight each, 0 leaves it out."""

    forward_kl: float = Field(ge=0)
    reverse_kl: float = Field(ge=0)
    jensen_shannon: float = Field(ge=0)
    jensen_shannon_weight: float = Field(gt=0, lt=1, description="the teacher's, in the mixture")
    cross_entropy: float = Field(ge=0)
    temperature: float = Field(gt=0, le=100, description="of the divergences")

    @property
    def divergence(self) -> float:
        """The weight of all that a teacher is needed for."""
        return self.forward_kl + self.reverse_kl + self.jensen_shannon

    @model_validator(mode="after")
    def _is_a_loss(self) -> Self:
        if self.divergence + self.cross_entropy == 0:
            raise ValueError("every weight of the objective is 0; give one of them more")
        return self


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
