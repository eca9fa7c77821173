"""Params of the distillation stage."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, StageParams
from tasks.training.params import TrainingParams


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
        """Return the weight of all that a teacher is needed for."""
        return self.forward_kl + self.reverse_kl + self.jensen_shannon

    @model_validator(mode="after")
    def _is_a_loss(self) -> Self:
        if self.divergence + self.cross_entropy == 0:
            raise ValueError("every weight of the objective is 0; give one of them more")
        return self


class DistillationParams(TrainingParams):
    """`params/distillation.yaml`."""

    students: list[Annotated[int, Field(ge=1)] | Literal["model"]] = Field(
        min_length=1,
        description="decoder layers of each; `model` is the one that models.yaml names",
    )
    layers: Literal["divergence", "importance", "uniform"] | list[int] = Field(
        description="which of the teacher's layers stay; a list of their numbers, from 0"
    )
    weights: Literal["full", "shared"]
    signal: Literal["online", "cached", "generated"]
    likeliest: int = Field(ge=1, le=4096, description="tokens a position that a cache keeps")
    objective: ObjectiveParams
    influence_examples: int = Field(ge=1, description="on which the layers are measured")
    calibration_tokens: int = Field(
        ge=0,
        description="on which students are fitted to the teacher's states, learned or not; 0: none",
    )
    fitted_learning_rate: float = Field(
        gt=0, le=1, description="of students that were fitted, instead of learning_rate"
    )
    compared_examples: int = Field(ge=2, description="held-out, teacher, student and control alike")
    dtype: Literal["float32", "bfloat16"]
    saved_dtype: Literal["float32", "bfloat16"]

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if len(set(self.students)) < len(self.students):
            raise ValueError(f"students names one twice: {self.students}")
        if isinstance(self.layers, list) and self.students != [len(self.layers)]:
            raise ValueError(
                f"layers lists {len(self.layers)} layers, which is one student of as many; "
                f"students is {self.students}. Set students: [{len(self.layers)}]"
            )
        if self.weights == "shared" and self.calibration_tokens:
            raise ValueError(
                "weights: shared leaves the base's weights as they are, and calibration_tokens "
                f"({self.calibration_tokens}) fits them to the teacher's states; set "
                "calibration_tokens: 0, or weights: full"
            )
        if self.weights == "shared" and "model" in self.students:
            raise ValueError(
                "a student that is a model of its own shares no weights with the base; set "
                "weights: full, or take `model` out of students"
            )
        return self


class Params(StageParams):
    """What the stage reads."""

    distillation: DistillationParams
    prompting: PromptingParams
    models: ModelsParams
    compute: ComputeParams
