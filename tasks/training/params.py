"""Params that every training shares."""

from typing import Annotated, Literal

from pydantic import Field

from tasks.stage.params import StageParams


class LoopParams(StageParams):
    """What the training loop needs to know; the values live in the stage's own YAML."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["find"]
    schedule: Literal["cosine", "linear", "constant_with_warmup"]
    warmup_share: float = Field(
        ge=0, lt=1, description="share of the steps in which the rate rises"
    )
    weight_decay: float = Field(ge=0, le=1)
    max_gradient_norm: float = Field(gt=0)
    max_loss_growth: float = Field(
        gt=1, description="times the validation loss before training (at least 1 nat) to halt at"
    )
    epochs: int = Field(ge=1)
    evaluations: int = Field(ge=1, description="how often the validation loss is taken")
    patience: int = Field(ge=1, description="evaluations without a gain before training stops")
    seed: int = Field(ge=0)


class TrainingParams(LoopParams):
    """What a training on token sequences needs to know besides."""

    batch_examples: int = Field(ge=1, description="examples an optimizer step")
    token_budget: int = Field(ge=256, description="tokens of one epoch, prompts included")
    new_share: float = Field(
        ge=0, le=1, description="of the budget, for the newest intake where there are older ones"
    )
    feedback_share: float = Field(
        ge=0, le=1, description="of the budget, for feedback, where its source has no weight"
    )
    feedback_passes: int = Field(ge=1, description="times that an epoch learns feedback at most")
    validation_examples: int = Field(ge=1)
