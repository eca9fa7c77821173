"""An answerer made of a release bundle and the base models in the store."""

from functools import partial
from pathlib import Path

import torch

from tasks.answering.golden import check_golden
from tasks.answering.labels import read_labels
from tasks.answering.pipeline import Answerer
from tasks.answering.release_bundle import (
    ADAPTER,
    BASE,
    EMBEDDER,
    INDEX,
    STUDENT,
    BundleSettings,
    verify_bundle,
)
from tasks.embedding.embedder import Embedder
from tasks.models.loading import LanguageModel, load_adapted, load_student, prepare_device
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.schema import ServedModel
from tasks.retrieval.index import Index
from tasks.task_types.table import TrainedTask
from tasks.task_types.tools import TOOLS


def load_served(
    bundle: Path, store: Path, model: ServedModel, *, numeric_form: str, device: torch.device
) -> LanguageModel:
    """Return one of a bundle's two models, as it is served.

    Raises:
        ConfigError: the store lacks the weights that it names.
        DataError: a file of the model is missing or changed.
    """
    if model == "student":
        return load_student(bundle / STUDENT, device=device)
    base, adapter = bundle / BASE, bundle / ADAPTER
    return load_adapted(base, store, adapter, numeric_form=numeric_form, device=device)


def load_answerer(bundle: Path, store: Path, model: ServedModel) -> Answerer:
    """Return an answerer made of nothing but a bundle and the base models in the store, checked.

    Raises:
        ConfigError: the folder is no bundle, the store lacks the weights it names, the adapter was
            made for another base, or golden prompts are found, asked or answered otherwise.
        DataError: a file of the bundle or of its base is missing or changed.
    """
    verify_bundle(bundle, store)
    return open_verified(bundle, store, model)


def open_verified(bundle: Path, store: Path, model: ServedModel) -> Answerer:
    """Return an answerer of a bundle whose files were checked; its golden prompts are checked now.

    Raises:
        ConfigError: the adapter was made for another base, or golden prompts are found, asked or
            answered otherwise.
    """
    answerer = open_answerer(bundle, store, model)
    check_golden(bundle, answerer, model)
    return answerer


def open_answerer(bundle: Path, store: Path, model: ServedModel) -> Answerer:
    """Return an answerer of a bundle that is being made: nothing is known yet of what it answers.

    Raises:
        ConfigError: the folder is no bundle, the store lacks the weights it names, or prompts no
            longer come out as the model learned them.
        DataError: a file of the model is missing or changed.
    """
    settings = BundleSettings.read(bundle)
    device = prepare_device(settings.compute)
    form = settings.models.numeric_form
    language_model = load_served(bundle, store, model, numeric_form=form, device=device)
    task = TrainedTask.read(bundle / model / PROMPT)
    answerer = Answerer(
        language_model=language_model,
        template=read_prompt_bundle(bundle / model / PROMPT, language_model.tokenizer),
        prompting=settings.prompting,
        index=Index.load(bundle / INDEX).with_reranker(store, device),
        load_embedder=partial(Embedder.load, bundle / EMBEDDER, store, device=device),
        query=task.query,
        batch_size=settings.compute.generation_batch,
        labels=read_labels(bundle / model / PROMPT, language_model),
        calls_tools=task.type == TOOLS,
    )
    if answerer.index.settings.needs_embedder:
        _ = answerer.embedder  # now, and not with the first question
    return answerer
