"""The params of served questions: what is kept of them, and what they are used for."""

from pydantic import Field

from tasks.stage.params import StageParams


class LogParams(StageParams):
    """How long and how much is kept; what lies beyond either bound is deleted, oldest first."""

    days: int = Field(ge=1, le=3650)
    megabytes: int = Field(ge=1, description="of questions, answers and passages")


class ShadowParams(StageParams):
    """The served questions that a candidate answers beside its champion."""

    days: int = Field(ge=1, le=3650, description="of the last days alone")
    questions: int = Field(ge=1, le=5000, description="for each model, the newest")


class ServingParams(StageParams):
    """`params/serving.yaml`."""

    log: LogParams
    shadow: ShadowParams
    max_question_distance: float | None = Field(
        gt=0, le=2, description="of the last day's questions to those of training; null: no bound"
    )


class Params(StageParams):
    """The log's params by file."""

    serving: ServingParams
