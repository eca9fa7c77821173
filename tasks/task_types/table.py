"""The table of tasks, and what a model was trained for, kept beside its prompt.

To add a task: a module with its `TaskType`, a row here, and one in evaluation's table.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.records.schema import Message, Record
from tasks.records.tool_text import question_of
from tasks.stage.errors import ConfigError
from tasks.task_types.answer import ANSWER
from tasks.task_types.chat import (
    CHAT,
    ChatSettings,
    conversation_query,
    first_exchange,
    learned_turns,
)
from tasks.task_types.classify import CLASSIFY
from tasks.task_types.definition import TaskType
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.tools import TOOLS

TASK_TYPES: Mapping[str, TaskType] = {
    one.name: one for one in (ANSWER, CLASSIFY, SUMMARIZE, CHAT, TOOLS)
}
TASK_FILE = "task.json"

# What passages are searched by for a conversation whose last turn asks.
Query = Callable[[Sequence[Message]], str]


@dataclass(frozen=True)
class TrainedTask:
    """What a model was trained for; `labels` is the closed set of task classify.

    Where it is `constrained`, the model can say nothing but one of them. `chat` is what task chat
    is told, None of the others.
    """

    name: str = ANSWER.name
    labels: tuple[str, ...] = ()
    constrained: bool = False
    chat: ChatSettings | None = None

    @property
    def type(self) -> TaskType:
        """Return its row of the table."""
        return TASK_TYPES[self.name]

    @property
    def spoken(self) -> tuple[str, ...] | None:
        """Return the only texts that the model can say, None where it says what it likes."""
        return self.labels if self.constrained else None

    def asked(self, records: Sequence[Record]) -> list[Record]:
        """Return what is asked of records: of conversations up to each turn that is learned, in
        order and under the same id; of other tasks the records themselves.
        """
        if self.chat is None:
            return list(records)
        return [turn for one in records for turn in learned_turns(one, self.chat.learn)]

    def shown(self, record: Record) -> Record:
        """Return what a record shows as a demonstration, by its last two turns."""
        return record if self.chat is None else first_exchange(record)

    def query(self, turns: Sequence[Message]) -> str:
        """Return what passages are searched by for a conversation whose last turn asks."""
        if self.chat is not None:
            return conversation_query(turns, self.chat.query_characters)
        return question_of(turns) if self.type == TOOLS else turns[-1].content

    @classmethod
    def read(cls, prompt: Path) -> "TrainedTask":
        """Return what the model was trained for whose prompt lies in a folder.

        Raises:
            ConfigError: this version knows no such task.
        """
        path = prompt / TASK_FILE
        if not path.exists():  # so are the prompts of task answer
            return cls()
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("name") not in TASK_TYPES:
            raise ConfigError(
                f"{path} says that the model was trained for {content.get('name')!r}; this version "
                f"knows {', '.join(TASK_TYPES)}",
                "use the release of Nightloom that made it",
            )
        chat = content.get("chat")
        return cls(
            content["name"],
            tuple(content["labels"]),
            content["constrained"],
            None if chat is None else ChatSettings(**chat),
        )

    def write(self, prompt: Path) -> None:
        """Write it into a prompt's folder; task answer, which most are, leaves no file."""
        if self.name != ANSWER.name:
            content = asdict(self)
            if self.chat is None:
                del content["chat"]
            text = json.dumps(content, ensure_ascii=False, indent=1)
            (prompt / TASK_FILE).write_text(text + "\n", encoding="utf-8")

    def numbers(self) -> dict[str, Any]:
        """Return it as `metrics.json` holds it."""
        if self.chat is not None:
            return {"name": self.name, "learn": self.chat.learn}
        if not self.labels:
            return {"name": self.name}
        return {"name": self.name, "labels": len(self.labels), "constrained": self.constrained}


def evaluated_task(metrics: Mapping[str, Any]) -> TaskType:
    """Return the task that the systems of an evaluation were trained for, from its metrics.

    Raises:
        ConfigError: this version knows no such task.
    """
    name = (metrics.get("task") or {}).get("name", ANSWER.name)
    if name not in TASK_TYPES:
        raise ConfigError(
            f"the evaluation is of task {name!r}; this version knows {', '.join(TASK_TYPES)}",
            "use the release of Nightloom that made it",
        )
    return TASK_TYPES[name]
