"""A bundle registered: the version that the night's models are known by."""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.prompting.files import DEMONSTRATIONS, TEMPLATE
from tasks.records.schema import ServedModel
from tasks.records.text import text_sha256
from tasks.registry.aliases import stage_tag
from tasks.registry.client import Registry
from tasks.registry.versions import MODELS, PROMPT_TAG, STAGE_TAG, Version, promotion_key
from tasks.services.processes import StageError, run_child
from tasks.services.stores import RunRef


@task(task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
def register(
    root: Path, bundle: Path, store: Path, run: RunRef, registry: Registry, *, prompt: int
) -> list[Version]:
    """Return each model's version of the bundle: the one that exists, else a new one.

    No alias names a new one yet (`nominate`).

    `prompt` is the version of the prompt in MLflow's prompt registry; a new version's tag says it.
    Call it while holding the lock; killed anywhere and called again, it goes on.

    Raises:
        StageError: the bundle does not answer.
    """
    key = promotion_key(bundle)
    known = {model: registry.find(model, key) for model in MODELS}
    new = [model for model, version in known.items() if version is None]
    temporary = root / ".nightloom" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="models-", dir=temporary))

    def saved(model: ServedModel) -> Path:
        if not (folder / model).exists():
            _save(new, root, bundle, folder, store)
        return folder / model

    tags = {PROMPT_TAG: str(prompt)}
    try:
        made = {
            model: registry.register(model, key, partial(saved, model), run, tags) for model in new
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for model, version in made.items():
        get_run_logger().info("%s: registered as version %d", model, version.number)
    return [version or made[model] for model, version in known.items()]


def nominate(registry: Registry, version: Version) -> None:
    """Let `candidate` name a version, unless it names a newer one or this."""
    before = registry.aliases(version.model)
    if before.get("candidate", 0) >= version.number:
        return
    registry.point(version.model, "candidate", version.number)
    aliases = registry.aliases(version.model)
    for item in registry.versions(version.model):
        if item.number == before.get("candidate"):
            registry.tag(item, {STAGE_TAG: stage_tag(item.number, aliases)})


@task(task_run_name="register-prompt", cache_policy=NO_CACHE, persist_result=False)
def register_prompt(prompt: Path, run: RunRef, registry: Registry) -> int:
    """Return the version, in MLflow's prompt registry, of the prompt that a bundle learned.

    It is known by the hash of the template and of the demonstrations shown with it, which stand
    below the template as a comment of Jinja's, turn by turn in JSON.
    """
    parts = [(prompt / name).read_text(encoding="utf-8") for name in (TEMPLATE, DEMONSTRATIONS)]
    template, shown = parts
    text = template
    if json.loads(shown):
        text += f"\n{{# Shown before each question:\n{shown.replace('#}', '# }')}\n#}}\n"
    number = registry.register_prompt(text, text_sha256(*parts), run)
    get_run_logger().info("the prompt is version %d", number)
    return number


def _save(
    models: Sequence[ServedModel], root: Path, bundle: Path, folder: Path, store: Path
) -> None:
    """Write the bundle as MLflow models in `folder`, in a child that loads and asks each once."""
    command = [sys.executable, "-m", "tasks.registry.mlflow_models", "--bundle", str(bundle)]
    command += ["--models", *models, "--folder", str(folder), "--store", str(store)]
    child = run_child(command, root, get_run_logger().info)
    if child.code != 0:
        raise StageError(
            f"the bundle could not be written as {' and '.join(models)} that answer:\n"
            f"{child.last_lines}",
            "mend what these lines name; `python -m tasks.answering --help` asks a bundle directly",
            "RegistrationError",
        )
