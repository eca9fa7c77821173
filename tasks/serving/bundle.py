"""The release bundle: the names of its parts, and an answerer made from them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch

from tasks.lm.conversion import ModelManifest
from tasks.lm.embedding import Embedder
from tasks.lm.models import LanguageModel, load_adapted, load_student, prepare_device
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.records.prompt_files import PROMPT
from tasks.serving.answering import Answerer
from tasks.serving.golden import check_golden
from tasks.serving.retrieval import Index
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import MANIFEST, verified
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, StageParams

ADAPTER = "adapter"
STUDENT = "student"
INDEX = "index"
BASE = "base.json"
EMBEDDER = "embedder.json"
SETTINGS = "settings.json"
AGENT = "agent.py"
AGENT_FILE = Path(__file__).with_name(AGENT)  # what MLflow loads; a bundle holds a copy

ServedModel = Literal["adapter", "student"]


class BundleSettings(StageParams):
    """`settings.json`: the params that answering needs."""

    prompting: PromptingParams
    models: ModelsParams
    compute: ComputeParams

    @classmethod
    def read(cls, bundle: Path) -> "BundleSettings":
        """The settings of a bundle.

        Raises:
            ConfigError: the folder is not a bundle.
        """
        path = bundle / SETTINGS
        if not path.exists():
            raise ConfigError(
                f"{bundle} holds no {SETTINGS}, so it is not a release bundle",
                "name a bundle that a night made, e.g. data/bundle",
            )
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    def write(self, bundle: Path) -> None:
        """Write the settings into a bundle."""
        text = self.model_dump_json(indent=1) + "\n"
        (bundle / SETTINGS).write_text(text, encoding="utf-8")


def load_served(
    bundle: Path, store: Path, model: ServedModel, *, numeric_form: str, device: torch.device
) -> LanguageModel:
    """One of a bundle's two models, as it is served.

    Raises:
        ConfigError: the store lacks the weights that it names.
        DataError: a file of the model is missing or changed.
    """
    if model == "student":
        return load_student(bundle / STUDENT, device=device)
    base, adapter = bundle / BASE, bundle / ADAPTER
    return load_adapted(base, store, adapter, numeric_form=numeric_form, device=device)


def load_answerer(bundle: Path, store: Path, model: ServedModel) -> Answerer:
    """An answerer made of nothing but a bundle and the base models in the store, checked.

    Raises:
        ConfigError: the folder is no bundle, the store lacks the weights it names, the adapter was
            made for another base, or golden prompts are found, asked or answered otherwise.
        DataError: a file of the bundle or of its base is missing or changed.
    """
    verify_bundle(bundle, store)
    return open_verified(bundle, store, model)


def verify_bundle(bundle: Path, store: Path) -> None:
    """Check every file of a bundle, and of the models in the store that it names.

    Raises:
        ConfigError: the folder is no bundle, or the store lacks a model.
        DataError: a file is missing or changed.
    """
    if not (bundle / MANIFEST).exists():
        BundleSettings.read(bundle)  # which says it where the folder is no bundle at all
    # Hashing lets other threads run meanwhile. The bundle's own files are told of first.
    with ThreadPoolExecutor() as pool:
        checks = [pool.submit(verified, bundle)]
        checks += [pool.submit(_verify_model, bundle / name, store) for name in (BASE, EMBEDDER)]
    for check in checks:
        check.result()


def _verify_model(manifest: Path, store: Path) -> Path:
    return ModelManifest.read(manifest).verified_folder(store)


def open_verified(bundle: Path, store: Path, model: ServedModel) -> Answerer:
    """An answerer of a bundle whose files were checked; its golden prompts are checked now.

    Raises:
        ConfigError: the adapter was made for another base, or golden prompts are found, asked or
            answered otherwise.
    """
    answerer = open_answerer(bundle, store, model)
    check_golden(bundle, answerer, model)
    return answerer


def open_answerer(bundle: Path, store: Path, model: ServedModel) -> Answerer:
    """An answerer of a bundle that is being made: nothing is known yet of what it answers.

    Raises:
        ConfigError: the folder is no bundle, the store lacks the weights it names, or prompts no
            longer come out as the model learned them.
        DataError: a file of the model is missing or changed.
    """
    settings = BundleSettings.read(bundle)
    device = prepare_device(settings.compute)
    form = settings.models.numeric_form
    language_model = load_served(bundle, store, model, numeric_form=form, device=device)
    return Answerer(
        language_model=language_model,
        template=read_prompt_kit(bundle / model / PROMPT, language_model.tokenizer),
        prompting=settings.prompting,
        index=Index.load(bundle / INDEX).with_reranker(store, device),
        embedder=Embedder.load(bundle / EMBEDDER, store, device=device),
        batch_size=settings.compute.generation_batch,
    )
