"""What was asked of a served model, what it answered, and what people said of the answer.

The server hands these to the process that keeps them, one JSON object a line, and reads one
`Outcome` a line back, in the same order.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from tasks.records.schema import ServedModel

_COMPLETION = r"^chatcmpl-[0-9a-f]{32}$"
_LONGEST_CHARACTERS = 20_000


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> str:
        """Return the object as one line."""
        return self.model_dump_json() + "\n"


class LogPlace(_Line):
    """Where entries are kept: an MLflow store, where its artifacts go, and the params' folder."""

    tracking_uri: str
    artifacts: str | None  # the address that an experiment is made with
    params: str


class ShownPassage(_Line):
    """A passage of a prompt; `text` is as the model saw it."""

    id: str
    text: str
    score: float


class Exchange(_Line):
    """One question and its answer. `turns` are roles and texts, the last one the question.

    `completion` is the id that the client was given. Passages are those of the prompt, best first.
    """

    entry: Literal["exchange"] = "exchange"
    completion: str = Field(pattern=_COMPLETION)
    model: ServedModel
    version: int
    alias: str
    turns: tuple[tuple[str, str], ...] = Field(min_length=1)
    passages: tuple[ShownPassage, ...]
    answer: str
    is_cut: bool
    asked: datetime
    seconds: float = Field(ge=0)

    @property
    def question(self) -> str:
        """Return the last turn's text."""
        return self.turns[-1][1]


class ReplayedAnswer(_Line):
    """What a version answers to a question that was asked before, and the passages it saw."""

    text: str
    passages: tuple[ShownPassage, ...]


class Feedback(_Line):
    """What somebody said of an answer: a mark, the answer that would be right, a note."""

    entry: Literal["feedback"] = "feedback"
    completion: str = Field(pattern=_COMPLETION, description="the answer's `id`")
    rating: Literal["good", "bad"] | None = None
    answer: str | None = Field(
        default=None, min_length=1, max_length=_LONGEST_CHARACTERS, description="the right answer"
    )
    note: str | None = Field(default=None, min_length=1, max_length=_LONGEST_CHARACTERS)

    @model_validator(mode="after")
    def _says_something(self) -> "Feedback":
        if self.rating is None and self.answer is None and self.note is None:
            raise ValueError("give at least one of rating, answer and note")
        return self


class Outcome(_Line):
    """What became of an entry. `unknown`: no answer of that id is kept; `error` tells a failure."""

    outcome: Literal["kept", "left_out", "unknown", "failed"]
    error: str | None = None


Entry = Annotated[Exchange | Feedback, Field(discriminator="entry")]
ENTRY: TypeAdapter[Exchange | Feedback] = TypeAdapter(Entry)
