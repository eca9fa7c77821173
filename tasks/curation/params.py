"""The params of the curation stage."""

from typing import Annotated

from pydantic import Field, model_validator

from tasks.stage.params import StageParams

Bounds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class CurationParams(StageParams):
    """`params/curation.yaml`; bounds are [least, most], both allowed."""

    validation_share: float = Field(gt=0, lt=0.5)
    test_share: float = Field(gt=0, lt=0.5)
    salt: str = Field(min_length=1)
    question_characters: Bounds
    answer_characters: Bounds
    duplicate_similarity: float = Field(gt=0.5, le=1)
    leak_similarity: float = Field(gt=0.5, le=1)
    shingle_characters: int = Field(ge=2, le=20)
    permutations: int = Field(ge=16, le=1024)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _bounds_rise(self) -> "CurationParams":
        for name in ("question_characters", "answer_characters"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name}: the shortest, {least}, is above the longest, {most}")
        return self


class Params(StageParams):
    """The params of this stage, one section a file."""

    curation: CurationParams
