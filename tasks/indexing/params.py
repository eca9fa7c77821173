"""Params of the indexing stage."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from tasks.stage.params import ComputeParams, PromptingParams, RerankingParams, StageParams
from tasks.task_types.params import TaskParams

Weight = Annotated[float, Field(ge=0, le=100)]


class WeightChoiceParams(StageParams):
    """How the weights of the two halves are chosen on validation questions."""

    measured: bool = Field(description="whether others than the usual weights may be chosen")
    alternatives: list[Annotated[list[Weight], Field(min_length=2, max_length=2)]] = Field(
        description="weights of BM25's and of the dense ranks that are tried"
    )
    questions: int = Field(ge=1, le=100_000, description="validation questions, by hashed id")
    least_questions: int = Field(ge=1, description="with fewer, the usual weights stay")
    noise: float = Field(
        ge=0, lt=1, description="of the other half's MRR; a half below it finds next to nothing"
    )
    confidence: float = Field(gt=0.5, lt=1, description="of the intervals that decide")
    resamples: int = Field(ge=100, le=1_000_000, description="draws of an interval")
    seed: int = Field(ge=0, description="of the draws")

    @model_validator(mode="after")
    def _each_has_a_half(self) -> Self:
        if any(not any(pair) for pair in self.alternatives):
            raise ValueError("of each alternative one weight must be above 0")
        return self


class IndexingParams(StageParams):
    """`params/indexing.yaml`."""

    candidates: int = Field(
        ge=1, le=1000, description="passages taken from each ranking before they are fused"
    )
    rank_constant: int = Field(
        ge=1, le=1000, description="k of reciprocal rank fusion; larger flattens the ranks"
    )
    lexical_weight: Weight = Field(description="weight of BM25's ranks")
    dense_weight: Weight = Field(description="weight of the dense ranks")
    choice: WeightChoiceParams
    exact_below: int = Field(
        ge=1, description="passages from which on dense search is approximate; exact below"
    )
    least_recall: float = Field(
        gt=0, le=1, description="share of exact search's results that approximate search finds"
    )

    @model_validator(mode="after")
    def _has_a_half(self) -> Self:
        if self.lexical_weight == self.dense_weight == 0:
            raise ValueError("lexical_weight or dense_weight must be above 0")
        return self

    @property
    def embeds(self) -> bool:
        """Return whether passages are embedded, be it only to measure what that brings."""
        return self.choice.measured or self.dense_weight > 0


class Params(StageParams):
    """The files that indexing is given."""

    task: TaskParams
    indexing: IndexingParams
    prompting: PromptingParams
    reranking: RerankingParams
    compute: ComputeParams
