"""Params of the packaging stage."""

from pydantic import Field

from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, StageParams


class PackagingParams(StageParams):
    """`params/packaging.yaml`."""

    golden: int = Field(ge=1, le=1000, description="test records answered from the bundle")
    golden_answers: int = Field(ge=1, le=100, description="of these, asked for again at each load")
    golden_tokens: int = Field(ge=1, le=256, description="first tokens of those answers")
    max_mismatch: float = Field(
        ge=0, le=1, description="share of answers that may differ from evaluation's"
    )


class Params(StageParams):
    """The files that packaging is given."""

    packaging: PackagingParams
    prompting: PromptingParams
    models: ModelsParams
    compute: ComputeParams
