"""Params of the stage that trains search's embedder."""

from typing import Literal

from pydantic import Field

from tasks.stage.params import ComputeParams, PromptingParams, StageParams
from tasks.training.params import LoopParams

PairKind = Literal["questions", "spans"]


class GateParams(StageParams):
    """When what was learned is kept."""

    recall_at: int = Field(ge=1, le=10, description="passages that are looked at")
    questions: int = Field(ge=1, le=100_000, description="validation questions, by hashed id")
    least_questions: int = Field(ge=1, description="with fewer nothing is trained")
    confidence: float = Field(gt=0.5, lt=1, description="of the intervals")
    resamples: int = Field(ge=100, le=1_000_000, description="draws of an interval")
    seed: int = Field(ge=0, description="of the draws")


class RetrieverParams(LoopParams):
    """`params/retriever_training.yaml`."""

    enabled: bool = Field(description="whether anything is trained")
    pairs: PairKind
    temperature: float = Field(gt=0, le=1, description="cosines are divided by it")
    hard_negatives: int = Field(ge=0, le=16, description="by BM25, a pair")
    batch_pairs: int = Field(ge=2, le=4096, description="pairs an optimizer step")
    most_pairs: int = Field(ge=2, description="pairs of an epoch")
    held_out_share: float = Field(gt=0, lt=0.5, description="of the groups, never learned")
    rank: int = Field(ge=1, le=1024)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    gate: GateParams


class Params(StageParams):
    """The files that the stage is given."""

    retriever_training: RetrieverParams
    prompting: PromptingParams
    compute: ComputeParams
