"""Params of the evaluation stage."""

from typing import Literal

from pydantic import Field

from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, StageParams


class EvaluationParams(StageParams):
    """`params/evaluation.yaml`."""

    records: int = Field(ge=1, le=100_000, description="test records scored, chosen by hashed id")
    salt: str = Field(description="salt of the hash that chooses records")
    primary_mode: Literal["closed_book", "retrieved", "oracle"]
    primary_metric: Literal["exact_match", "token_f1", "rouge_l", "chrf"]
    student_keeps: float = Field(
        gt=0, le=1, description="share of the adapter's score that the offered student keeps"
    )
    confidence: float = Field(gt=0.5, lt=1, description="of every interval")
    resamples: int = Field(ge=100, le=1_000_000, description="bootstrap resamples an interval")
    seed: int = Field(ge=0, description="of the resampling")
    abstentions: list[str] = Field(
        min_length=1, description="an answer that begins with one of these abstains"
    )


class Params(StageParams):
    """The files that evaluation is given."""

    evaluation: EvaluationParams
    prompting: PromptingParams
    models: ModelsParams
    compute: ComputeParams
