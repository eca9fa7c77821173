"""Base models: resolved once into the store, and a small manifest that the stages depend on."""

import json
import sys
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.services.processes import child_environment, printed_failure, run_child, stage_error
from tasks.stage.params import EmbedderSource, ModelSource

_LOCAL = ("/", ".", "~")


@task(
    task_run_name="resolve-{kind}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def resolve(
    model: ModelSource,
    kind: Literal["causal_lm", "embedder", "reranker"],
    root: Path,
    manifest: Path,
    store: Path,
) -> None:
    """Bring a base model into the store, and write the manifest that names it.

    Raises:
        ConfigError: the source can't be had, or is not safe to load.
    """
    logger = get_run_logger()
    if is_resolved(model, manifest, store):
        logger.info("%s is in the store", model.source)
        return
    command = [sys.executable, "-m", "tasks.models.store", "--source", model.source]
    command += [] if model.revision is None else ["--revision", model.revision]
    command += ["--kind", kind, "--manifest", str(manifest), "--store", str(store)]
    for name, value in _given(model).items():
        command += [] if value is None else [f"--{name}={value}"]
    environment = child_environment(online=model.source.startswith("hub:"))
    child = run_child(command, root, logger.info, environment)
    if child.code != 0:
        raise stage_error(f"base model {model.source}", printed_failure(child))


def is_resolved(model: ModelSource, manifest: Path, store: Path) -> bool:
    """Return whether a manifest stands for a source and the store holds all of its files."""
    if not manifest.exists():
        return False
    found = json.loads(manifest.read_text(encoding="utf-8"))
    if found is None:  # what stands for no model
        return False
    if (found["source"], found["revision"]) != (model.source, model.revision):
        return False
    if any(found.get(name) != value for name, value in _given(model).items()):
        return False
    if model.source.startswith(_LOCAL) and _changed_since(Path(model.source), manifest):
        return False
    folder = store / found["digest"]
    return all((folder / name).is_file() for name in found["files"])


def _given(model: ModelSource) -> dict[str, str | None]:
    """Return what params say of an embedder beside its source; nothing of other models."""
    if not isinstance(model, EmbedderSource):
        return {}
    return {name: getattr(model, name) for name in ("query_prompt", "passage_prompt", "pooling")}


def _changed_since(source: Path, manifest: Path) -> bool:
    """Return whether a local model folder is gone or holds a file younger than its manifest."""
    files = list(source.expanduser().rglob("*"))
    made = manifest.stat().st_mtime
    return not files or any(path.stat().st_mtime >= made for path in files)
