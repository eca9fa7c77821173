"""A question to the version that an alias names."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from flows.environment import find_stores
from flows.workspace import STATE, WorkspacePaths
from tasks.orchestration.process import run_child
from tasks.orchestration.registry import Registry
from tasks.orchestration.versions import Model
from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml

_ORDER = ("production", "staging", "candidate")


class PassageUsed(BaseModel):
    """A passage that the model was given."""

    id: str
    text: str
    score: float


class Answer(BaseModel):
    """What the model said, and from what."""

    model: Model
    answer: str
    passages: list[PassageUsed]
    latency_ms: float
    version: int = 0
    alias: str = ""


def ask_model(
    checkout: Path, question: str, model: Model, alias: str | None, where: Sequence[str]
) -> Answer:
    """The answer of the reigning version, or of the one that `alias` names.

    `where` are conditions `FIELD=VALUE` on the passages that are searched.

    Raises:
        ConfigError: no such version, or it could not answer.
    """
    registry = Registry(find_stores(checkout))
    aliases = registry.aliases(model)
    wanted = _ORDER if alias is None else (alias,)
    name = next((item for item in wanted if item in aliases), None)
    if name is None:
        shown = ", ".join(aliases) or "none"
        raise ConfigError(
            f"no version of the {model} is named {' or '.join(wanted)}; found aliases: {shown}",
            "run `nightloom run`, which registers one",
        )
    bundle = registry.bundle(model, aliases[name], checkout / STATE / "downloads")
    paths = WorkspacePaths.model_validate(read_yaml(checkout / "params" / "paths.yaml"))
    command = [sys.executable, "-m", "tasks.serving", "--bundle", str(bundle), "--model", model]
    command += ["--store", str(checkout / paths.model_store), "--question", question, "--json"]
    command += [part for condition in where for part in ("--where", condition)]
    lines: list[str] = []
    if run_child(command, checkout, lines.append) != 0:
        raise ConfigError(
            "the model could not answer:\n" + "\n".join(lines[-8:]), "mend what these lines name"
        )
    said = next(line for line in reversed(lines) if line.startswith("{"))
    answer = Answer.model_validate_json(said)
    return answer.model_copy(update={"version": aliases[name], "alias": name})
