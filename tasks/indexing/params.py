"""Params of the indexing stage."""

from pydantic import Field

from tasks.stage.params import ComputeParams, PromptingParams, RerankingParams, StageParams


class IndexingParams(StageParams):
    """`params/indexing.yaml`."""

    candidates: int = Field(
        ge=1, le=1000, description="passages taken from each ranking before they are fused"
    )
    rank_constant: int = Field(
        ge=1, le=1000, description="k of reciprocal rank fusion; larger flattens the ranks"
    )
    lexical_weight: float = Field(
        gt=0, le=100, description="weight of BM25's ranks; the dense ranks have weight 1"
    )
    exact_below: int = Field(
        ge=1, description="passages from which on dense search is approximate; exact below"
    )
    least_recall: float = Field(
        gt=0, le=1, description="share of exact search's results that approximate search finds"
    )


class Params(StageParams):
    """The files that indexing is given."""

    indexing: IndexingParams
    prompting: PromptingParams
    reranking: RerankingParams
    compute: ComputeParams
