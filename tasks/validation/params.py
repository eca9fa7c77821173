"""The params of the validation stage."""

from typing import Annotated

from pydantic import AfterValidator, Field

from tasks.stage.params import StageParams


def _rising(bounds: list[int]) -> list[int]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the shortest, {bounds[0]}, is above the longest, {bounds[1]}")
    return bounds


Bounds = Annotated[
    list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2), AfterValidator(_rising)
]


class ValidationParams(StageParams):
    """`params/validation.yaml`; bounds are [least, most], both allowed."""

    min_records: int = Field(ge=1)
    max_quarantine_share: float = Field(ge=0, le=1)
    question_characters: Bounds
    answer_characters: Bounds
    document_characters: Bounds


class Params(StageParams):
    """The params of this stage, one section a file."""

    validation: ValidationParams
