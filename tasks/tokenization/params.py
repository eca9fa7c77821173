"""Params of the tokenization stage."""

from pydantic import Field

from tasks.stage.params import PromptingParams, StageParams


class TokenizationParams(StageParams):
    """`params/tokenization.yaml`."""

    passages_share: float = Field(ge=0, le=1)
    context_examples: int = Field(ge=1, le=64)
    max_tokens: int = Field(ge=16, le=32768)
    seed: int = Field(ge=0)


class Params(StageParams):
    """What the stage reads."""

    tokenization: TokenizationParams
    prompting: PromptingParams
