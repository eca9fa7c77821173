"""Params of promotion."""

from typing import Literal

from pydantic import Field

from tasks.stage.params import StageParams


class PromotionParams(StageParams):
    """`params/promotion.yaml`."""

    primary_mode: Literal["closed_book", "retrieved", "oracle"]
    primary_metric: Literal["exact_match", "token_f1", "rouge_l", "chrf"]
    min_gain: float = Field(
        ge=-1, le=1, description="the lower bound of the gain over the base must lie above it"
    )
    min_retention: float = Field(
        ge=0, le=2, description="share of the adapter's score that a student keeps"
    )
    max_detectable: float = Field(
        gt=0, le=1, description="the smallest difference that the records can show is at most this"
    )
    power: float = Field(gt=0.5, lt=1, description="with which that difference would be found")
    max_leaks: int = Field(ge=0, description="of the test split, that curation's check may find")
    max_cut: float = Field(
        ge=0, le=1, description="share of answers that may be cut because they did not end"
    )
    confidence: float = Field(gt=0.5, lt=1)
    resamples: int = Field(ge=100, le=1_000_000)
    seed: int = Field(ge=0)
    may_be_null: list[str] = Field(description="metrics that may be null, given a reason")


class Params(StageParams):
    """The file that a release is given."""

    promotion: PromotionParams
