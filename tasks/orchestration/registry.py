"""The MLflow registry: one version a bundle, aliases that say what each is for.

As a command, `python -m tasks.orchestration.registry`, it writes a bundle as MLflow models: in a
process of its own, because MLflow tries each once and that loads it whole.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.orchestration.stores import RunRef, Stores
from tasks.stage.errors import ConfigError, NightloomError
from tasks.stage.outputs import MANIFEST, file_sha256, write_manifest

Model = Literal["adapter", "student"]
Alias = Literal["candidate", "staging", "production", "previous"]
MODELS: tuple[Model, ...] = ("adapter", "student")
KEY_TAG = "promotion_key"
STAGE_TAG = "stage"
PROMPT_NAME = "nightloom-answer"
PROMPT_TAG = "prompt_version"
DIGEST_TAG = "sha256"
_LINKED_PROMPTS = "mlflow.linkedPrompts"
_REQUIREMENTS = (
    "mlflow", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors",
    "bm25s", "numpy", "pydantic", "jinja2", "pyyaml",
)  # fmt: skip
_EXAMPLE = {"input": [{"role": "user", "content": "What does json.dumps do?"}]}


@dataclass(frozen=True)
class Version:
    """One registered version of a model, what its tags say, and the night's run that made it."""

    model: Model
    number: int
    tags: dict[str, str]
    run_id: str


def promotion_key(bundle: Path) -> str:
    """The SHA-256 of a bundle's manifest: the same bytes are the same version."""
    return file_sha256(bundle / MANIFEST)


def model_name(model: Model) -> str:
    """The name under which a model is registered."""
    return f"nightloom-{model}"


class Registry:
    """Versions and aliases of one MLflow store."""

    def __init__(self, stores: Stores) -> None:
        """Open the store."""
        self._client = MlflowClient(stores.tracking_uri)

    def find(self, model: Model, key: str) -> Version | None:
        """The version that carries a promotion key, None where there is none."""
        query = f"name = '{model_name(model)}' and tags.`{KEY_TAG}` = '{key}'"
        found = self._client.search_model_versions(query)
        return _version(model, found[0]) if found else None

    def register(self, model: Model, key: str, folder: Path, run: RunRef) -> Version:
        """A new version of the model that a folder holds, logged to a night's run."""
        name = model_name(model)
        self._client.log_artifacts(run.run_id, str(folder), f"models/{model}")
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        root = self._client.get_run(run.run_id).info.artifact_uri
        made = self._client.create_model_version(
            name,
            source=f"{root}/models/{model}",
            run_id=run.run_id,
            tags={KEY_TAG: key, STAGE_TAG: "none"},
        )
        return _version(model, made)

    def aliases(self, model: Model) -> dict[str, int]:
        """Alias -> version number; empty where nothing is registered."""
        try:
            found = self._client.get_registered_model(model_name(model))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {name: int(number) for name, number in sorted(found.aliases.items())}

    def version(self, model: Model, number: int) -> Version:
        """One version by its number."""
        return _version(model, self._client.get_model_version(model_name(model), str(number)))

    def numbers(self, model: Model) -> list[int]:
        """The numbers of all versions, ascending."""
        found = self._client.search_model_versions(f"name = '{model_name(model)}'")
        return sorted(int(item.version) for item in found)

    def point(self, model: Model, alias: Alias, number: int) -> None:
        """Let an alias name a version. Two that create the same alias at once: one tries again."""
        name = model_name(model)
        try:
            self._client.set_registered_model_alias(name, alias, str(number))
        except MlflowException:
            self._client.set_registered_model_alias(name, alias, str(number))

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        """Set tags of a version."""
        name = model_name(version.model)
        for tag, value in tags.items():
            self._client.set_model_version_tag(name, str(version.number), tag, value)

    def register_prompt(self, text: str, digest: str, run: RunRef) -> int:
        """The version of a prompt in MLflow's prompt registry, linked to a night's run.

        A digest that is registered already keeps its version.
        """
        if self._client.get_prompt(PROMPT_NAME) is None:
            self._client.create_prompt(PROMPT_NAME, "How Nightloom asks; Jinja, in three parts")
        found = [
            version
            for version in self._client.search_prompt_versions(PROMPT_NAME)
            if version.tags.get(DIGEST_TAG) == digest
        ]
        version = (
            found[0]
            if found
            else self._client.create_prompt_version(PROMPT_NAME, text, tags={DIGEST_TAG: digest})
        )
        # As link_prompt_version_to_run does, which writes to the process's default store instead.
        link = [{"name": PROMPT_NAME, "version": str(version.version)}]
        self._client.set_tag(run.run_id, _LINKED_PROMPTS, json.dumps(link))
        return int(version.version)

    def bundle(self, model: Model, number: int, downloads: Path) -> Path:
        """A local folder with the bundle of a version, downloaded where the store is elsewhere."""
        uri = self._client.get_model_version_download_uri(model_name(model), str(number))
        if uri.startswith("file:"):
            folder = Path(url2pathname(urlparse(uri).path))
        else:
            folder = _download(self._client, uri, downloads / model_name(model) / str(number))
        [bundle] = [path.parent for path in folder.glob(f"artifacts/*/{MANIFEST}")]
        return bundle


def _download(client: MlflowClient, uri: str, target: Path) -> Path:
    """The folder that holds what lies at an artifact URI."""
    from mlflow.artifacts import download_artifacts

    if not target.exists():
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        found = download_artifacts(
            artifact_uri=uri, dst_path=str(partial), tracking_uri=client.tracking_uri
        )
        Path(found).rename(target)
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _version(model: Model, found: ModelVersion) -> Version:
    return Version(model, int(found.version), dict(found.tags), str(found.run_id))


def save_model(bundle: Path, model: Model, target: Path, store: Path) -> None:
    """Write a bundle, without the other model's weights, as an MLflow model that answers."""
    import mlflow.pyfunc

    other = MODELS[1 - MODELS.index(model)]
    slim = target.with_name(f"{target.name}-bundle")
    shutil.copytree(bundle, slim, ignore=shutil.ignore_patterns(other), copy_function=os.link)
    (slim / MANIFEST).unlink()  # a link to the bundle's own, which must not change
    write_manifest(slim)
    mlflow.pyfunc.save_model(
        path=str(target),
        python_model=str(slim / "agent.py"),
        artifacts={"bundle": str(slim)},
        code_paths=["tasks"],
        model_config={"model": model, "model_store": str(store)},
        input_example=_EXAMPLE,
        pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
    )


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 with the models written, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tasks.orchestration.registry")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--models", choices=MODELS, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="(written) one folder a model")
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    options = parser.parse_args(arguments)
    if not Path("tasks/serving/agent.py").exists():
        missing = ConfigError("tasks/serving/agent.py is missing here", "run it in the project")
        print(f"ConfigError: {missing}", file=sys.stderr)
        return 1
    try:
        for model in options.models:
            save_model(options.bundle, model, options.folder / model, options.store)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
