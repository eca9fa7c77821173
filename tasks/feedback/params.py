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


class RequestParams(StageParams):
    """How much the server takes; what is more is refused, with the bound that it met."""

    in_flight: int = Field(ge=1, le=100_000, description="read, waiting or being answered: 429")
    connections: int = Field(ge=8, le=100_000, description="open at once, idle ones too: 503")
    head_kilobytes: int = Field(ge=4, le=1024, description="request line and headers: 431")
    body_kilobytes: int = Field(ge=1, le=65_536, description="413")
    messages: int = Field(ge=1, le=10_000, description="turns of one conversation: 400")
    characters: int = Field(ge=1, le=10_000_000, description="of one conversation: 400")
    texts: int = Field(ge=1, le=100_000, description="to be embedded at once: 400")
    text_characters: int = Field(
        ge=1, le=10_000_000, description="of texts to be embedded at once: 400"
    )
    read_seconds: float = Field(gt=0, le=600, description="for a request to come in: 408")
    answer_seconds: float = Field(gt=0, le=86_400, description="until an answer's end: 503")
    keep_free_megabytes: int = Field(
        ge=0, description="of memory: a row that would leave less waits, or gets 503"
    )


class ServingParams(StageParams):
    """`params/serving.yaml`."""

    requests: RequestParams
    hosts: list[str] = Field(
        description="names by which clients call the server, beside its own addresses"
    )
    log: LogParams
    shadow: ShadowParams
    max_question_distance: float | None = Field(
        gt=0, le=2, description="of the last day's questions to those of training; null: no bound"
    )


class Params(StageParams):
    """The log's params by file."""

    serving: ServingParams
