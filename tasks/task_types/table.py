"""The table of tasks, and what a model was trained for, kept beside its prompt.

To add a task: a module with its `TaskType`, a row here, and one in evaluation's table.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.stage.errors import ConfigError
from tasks.task_types.answer import ANSWER
from tasks.task_types.classify import CLASSIFY
from tasks.task_types.definition import TaskType
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.tools import TOOLS

TASK_TYPES: Mapping[str, TaskType] = {one.name: one for one in (ANSWER, CLASSIFY, SUMMARIZE, TOOLS)}
TASK_FILE = "task.json"


@dataclass(frozen=True)
class TrainedTask:
    """What a model was trained for; `labels` is the closed set of task classify.

    Where it is `constrained`, the model can say nothing but one of them.
    """

    name: str = ANSWER.name
    labels: tuple[str, ...] = ()
    constrained: bool = False

    @property
    def type(self) -> TaskType:
        """Return its row of the table."""
        return TASK_TYPES[self.name]

    @property
    def spoken(self) -> tuple[str, ...] | None:
        """Return the only texts that the model can say, None where it says what it likes."""
        return self.labels if self.constrained else None

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
        return cls(content["name"], tuple(content["labels"]), content["constrained"])

    def write(self, prompt: Path) -> None:
        """Write it into a prompt's folder; task answer, which most are, leaves no file."""
        if self.name != ANSWER.name:
            text = json.dumps(asdict(self), ensure_ascii=False, indent=1)
            (prompt / TASK_FILE).write_text(text + "\n", encoding="utf-8")

    def numbers(self) -> dict[str, Any]:
        """Return it as `metrics.json` holds it."""
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
