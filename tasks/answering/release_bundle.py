"""What a release bundle consists of, and whether it is whole."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.embedding.adapter import MANIFEST_FILE
from tasks.models.manifest import ModelManifest
from tasks.retrieval.index import IndexSettings
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import MANIFEST, RESTORE, verified
from tasks.stage.params import AnsweringParams, ComputeParams, ModelsParams, StageParams

ADAPTER = "adapter"

STUDENT = "student"

INDEX = "index"

BASE = "base.json"

EMBEDDER = MANIFEST_FILE

SETTINGS = "settings.json"

AGENT = "agent.py"

AGENT_FILE = Path(__file__).with_name("mlflow_agent.py")  # what MLflow loads; a bundle holds a copy


class BundleSettings(StageParams):
    """`settings.json`: the params that answering needs."""

    prompting: AnsweringParams
    models: ModelsParams
    compute: ComputeParams

    @classmethod
    def read(cls, bundle: Path) -> "BundleSettings":
        """Return the settings of a bundle.

        Raises:
            ConfigError: the folder is not a bundle.
        """
        path = bundle / SETTINGS
        if not path.exists():
            raise ConfigError(
                f"{bundle} holds no {SETTINGS}, so it is not a release bundle",
                "name a bundle that a night made, e.g. data/bundle",
            )
        try:
            return cls.model_validate_json(_completed(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise ConfigError(
                f"{path} is of another release of Nightloom: {' '.join(str(error).split())[:300]}",
                "serve this version with the release that made it (its night's run in MLflow names "
                "the git commit), or `nightloom run` and promote the version that it makes",
            ) from None

    def write(self, bundle: Path) -> None:
        """Write the settings into a bundle."""
        text = self.model_dump_json(indent=1) + "\n"
        (bundle / SETTINGS).write_text(text, encoding="utf-8")


def _completed(text: str) -> str:
    """Return settings with what older bundles lack: the base's template, which was as it is."""
    match content := _parsed(text):
        case {"models": {"base": dict(base)}}:
            base.setdefault("template", None)
            return json.dumps(content)
    return text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # which is told as any other fault of the settings
        return None


def verify_bundle(bundle: Path, store: Path) -> None:
    """Check every file of a bundle, and of the models in the store that it needs.

    A bundle whose index is searched by BM25 alone needs no embedder.

    Raises:
        ConfigError: the folder is no bundle, or the store lacks a model.
        DataError: a file is missing or changed.
    """
    if not (bundle / MANIFEST).exists():
        BundleSettings.read(bundle)  # which says it where the folder is no bundle at all
    # Hashing lets other threads run meanwhile. The bundle's own files are told of first.
    with ThreadPoolExecutor() as pool:
        checks = [pool.submit(verified, bundle, remedy=RESTORE)]
        checks.append(pool.submit(_verify_model, bundle / BASE, store))
        checks.append(pool.submit(_verify_embedder, bundle, store))
    for check in checks:
        check.result()


def _verify_model(manifest: Path, store: Path) -> Path:
    return ModelManifest.read(manifest).verified_folder(store)


def _verify_embedder(bundle: Path, store: Path) -> Path:
    if not IndexSettings.read(bundle / INDEX).needs_embedder:
        return bundle
    return _verify_model(bundle / EMBEDDER, store)
