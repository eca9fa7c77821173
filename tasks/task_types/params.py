"""`params/task.yaml`: what models are trained for."""

from typing import Literal

from pydantic import Field

from tasks.stage.params import StageParams
from tasks.task_types.chat import CHAT, ChatSettings
from tasks.task_types.table import Query, TrainedTask


class ClassifyParams(StageParams):
    """What task classify is told."""

    labels: list[str] | None = Field(
        description="the closed set; null: every answer of the training split"
    )
    constrained: bool = Field(description="whether the model can say nothing but a label")


class ChatParams(StageParams):
    """What task chat is told."""

    learn: Literal["all", "last"] = Field(
        description="which of the assistant's turns are learned, asked and scored; never those of "
        "weight 0"
    )
    max_turns: int = Field(
        ge=1, le=1000, description="of the assistant; a longer conversation is refused"
    )
    query_characters: int = Field(
        ge=1, le=100_000, description="of a conversation that passages are searched by, at most"
    )


class TaskParams(StageParams):
    """`params/task.yaml`."""

    name: Literal["answer", "classify", "summarize", "chat", "tools"]
    classify: ClassifyParams
    chat: ChatParams

    @property
    def chat_settings(self) -> ChatSettings | None:
        """Return what goes with a model of task chat, None of another task."""
        if self.name != CHAT.name:
            return None
        return ChatSettings(self.chat.learn, self.chat.query_characters)

    @property
    def query(self) -> Query:
        """Return what passages are searched by for a conversation."""
        return TrainedTask(self.name, chat=self.chat_settings).query
