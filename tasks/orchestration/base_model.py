"""Base models: resolved once into the store, and a small manifest that the stages depend on.

A base is tried before it is resolved, and again when what the night would do with it has changed.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.model_check.findings import CheckRecord
from tasks.records.text import text_sha256
from tasks.services.processes import child_environment, printed_failure, run_child, stage_error
from tasks.stage.params import BaseSource, EmbedderSource, ModelSource

_LOCAL = ("/", ".", "~")
# What the check reads beside the base, and what its outcome depends on beside both.
CHECKED_PARAMS = ("models", "finetuning", "distillation", "compute")
_LIBRARIES = ("torch", "transformers", "tokenizers", "jinja2", "peft", "bitsandbytes")
_CHECK_VERSION = "1"  # raised where the check looks at more than it did


@task(
    task_run_name="resolve-causal_lm",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def resolve_base(
    model: BaseSource,
    root: Path,
    manifest: Path,
    store: Path,
    role: Literal["base", "student"] = "base",
) -> None:
    """Try a base, bring it into the store, and write the manifest that names it.

    A base that was tried with the same params and libraries is not tried again. A student that is a
    model of its own is only to read chats.

    Raises:
        ConfigError: the source can't be had, is not safe to load, or a stage could not use it.
    """
    logger = get_run_logger()
    key = _check_key(model, role, root)
    if is_resolved(model, manifest, store) and _is_checked(manifest, key):
        logger.info("%s is in the store", model.source)
        return
    command = [*check_command(model, root, store), "--role", role]
    command += ["--manifest", str(manifest), "--key", key]
    environment = child_environment(online=model.source.startswith("hub:"))
    child = run_child(command, root, logger.info, environment)
    if child.code != 0:
        raise stage_error(f"base model {model.source}", printed_failure(child))


def check_command(model: BaseSource, root: Path, store: Path) -> list[str]:
    """Return the command that looks at a base, and prints one finding a line as JSON."""
    files = [str(root / "params" / f"{name}.yaml") for name in CHECKED_PARAMS]
    command = [sys.executable, "-m", "tasks.model_check", "--params", *files]
    return [*command, "--source", model.model_dump_json(), "--store", str(store)]


def _check_key(model: BaseSource, role: str, root: Path) -> str:
    """Return what stands for all that the check's outcome depends on, but the base's files."""
    texts = [(root / "params" / f"{name}.yaml").read_text("utf-8") for name in CHECKED_PARAMS]
    libraries = [version(name) for name in _LIBRARIES]
    return text_sha256(_CHECK_VERSION, role, model.model_dump_json(), *texts, *libraries)


def _is_checked(manifest: Path, key: str) -> bool:
    known = CheckRecord.beside(manifest)
    digest = json.loads(manifest.read_text(encoding="utf-8"))["digest"]
    return known is not None and (known.key, known.digest) == (key, digest)


@task(
    task_run_name="resolve-{kind}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def resolve(
    model: ModelSource,
    kind: Literal["embedder", "reranker"],
    root: Path,
    manifest: Path,
    store: Path,
) -> None:
    """Bring an embedder or a cross-encoder into the store, and write the manifest that names it.

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
