"""Params of the tokenization stage."""

from typing import Literal

from pydantic import Field

from tasks.stage.params import PromptingParams, StageParams


class TokenizationParams(StageParams):
    """`params/tokenization.yaml`."""

    template: str = Field(
        min_length=1, description="path of a Jinja template, or auto: by the data's language"
    )
    demonstrations: int = Field(ge=0, le=32, description="examples of train shown in every prompt")
    passages_share: float = Field(ge=0, le=1)
    context_examples: int = Field(ge=1, le=64)
    max_tokens: int = Field(ge=16, le=32768)
    unusable: Literal["drop", "stop"]
    max_unusable_share: float = Field(ge=0, le=1, description="of the examples of all splits")
    max_long_answer_share: float = Field(
        ge=0, le=1, description="of the answers of all splits: longer than max_new_tokens"
    )
    documents: bool = Field(description="whether documents become token ids, to be learned as such")
    held_out_documents: float = Field(
        gt=0, lt=1, description="share of the documents that is never learned, for perplexity"
    )
    preferences: bool = Field(description="whether rejected answers become token ids, for DPO")
    seed: int = Field(ge=0)


class ClassifyParams(StageParams):
    """What task classify is told."""

    labels: list[str] | None = Field(
        description="the closed set; null: every answer of the training split"
    )
    constrained: bool = Field(description="whether the model can say nothing but a label")


class TaskParams(StageParams):
    """`params/task.yaml`."""

    name: Literal["answer", "classify", "summarize", "tools"]
    classify: ClassifyParams


class Params(StageParams):
    """What the stage reads."""

    task: TaskParams
    tokenization: TokenizationParams
    prompting: PromptingParams
