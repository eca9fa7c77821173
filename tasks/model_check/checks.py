"""What is looked at of a base, each as one finding, from its config and without its weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tasks.distillation.params import DistillationParams
from tasks.distillation.pruning import check_layers, decoder_layers
from tasks.export.families import check_architecture
from tasks.export.vocabulary import read_vocabulary
from tasks.finetuning.adapter import adapter_targets
from tasks.finetuning.params import FinetuningParams
from tasks.model_check.conversations import check_conversations
from tasks.model_check.findings import Finding
from tasks.model_check.memory import check_memory
from tasks.model_check.small_models import meta_model, read_config, small_config, write_small
from tasks.model_check.tool_form import tool_form
from tasks.model_check.trial import Trial, run_trial
from tasks.models.linear_maps import Targets, check_known, decoder_share, every_target, share_text
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.store import WEIGHTS
from tasks.models.template_binding import bound_settings
from tasks.prompting.chat_encoding import end_of_turn
from tasks.stage.errors import ConfigError
from tasks.stage.params import ComputeParams, ModelsParams, StageParams

# What a model is to be: what a night starts from, or a student that is a model of its own.
Role = Literal["base", "student"]
ROLES: tuple[Role, ...] = get_args(Role)


class Params(StageParams):
    """What the check reads: what a night would do with the base."""

    models: ModelsParams
    finetuning: FinetuningParams
    distillation: DistillationParams
    compute: ComputeParams


@dataclass(frozen=True)
class Base:
    """A base as far as it is known without its weights."""

    folder: Path
    config: PretrainedConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def check_base(folder: Path, params: Params, role: Role = "base") -> Iterator[Finding]:
    """Yield what is found of the base in a folder, in the order in which a night would meet it.

    What can't be looked at without what was refused before is left out; of a student, all that only
    a base is used for.
    """
    config = model = tokenizer = None
    try:
        config = read_config(folder)
        model = _model(folder, config)
        yield Finding("shape", _shape(model))
    except ConfigError as error:
        yield Finding.of("shape", error)
    try:
        tokenizer = load_tokenizer(folder)
    except ConfigError as error:
        yield Finding.of("tokenizer", error)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        yield Finding.of("tokenizer", _unreadable(folder, error))
    if tokenizer is not None:
        yield from _chats(tokenizer)
    if config is None or model is None or tokenizer is None:
        return
    base = Base(folder, config, model, tokenizer)
    yield from _look(base, (("vocabulary", _vocabulary),))
    if role == "base":
        yield from _uses(base, params)


def _chats(tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    """Yield how chats become token ids."""
    yield from _look(tokenizer, (("chat template", _template),))
    ended = list(_look(tokenizer, (("end of turn", _end),)))
    yield from ended
    if ended[0].fault is None:
        yield from _look(tokenizer, (("prompts", check_conversations), ("tools", tool_form)))


def _look(given: Any, checks: Sequence[tuple[str, Callable[[Any], str]]]) -> Iterator[Finding]:
    for name, check in checks:
        try:
            yield Finding(name, check(given))
        except ConfigError as error:
            yield Finding.of(name, error)


def _model(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    """Return the model without its numbers, compared with the shapes of those that are there.

    Raises:
        ConfigError: weights are missing or of other shapes than the config describes.
    """
    if not any(path.suffix == WEIGHTS for path in folder.iterdir()):
        return meta_model(config)
    meta_model(config)  # which says it better where there is no such architecture
    return load_model(folder, torch.device("meta"))


def _shape(model: PreTrainedModel) -> str:
    count = model.num_parameters() / 1e6
    size = f"{count / 1000:.2f} billion" if count >= 1000 else f"{count:.2f} million"
    layers = model.config.get_text_config().num_hidden_layers
    return f"{type(model).__name__}: {size} weights in {layers} layers"


def _unreadable(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"the tokenizer in {folder.name} can't be loaded: {' '.join(str(error).split())[:300]}",
        "copy or download its files again, or save it with save_pretrained",
    )


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    bound = bound_settings(str(tokenizer.chat_template))
    if bound is None:
        return "as its makers wrote it"
    return "bound to " + ", ".join(f"{name} {value}" for name, value in bound.items())


def _end(tokenizer: PreTrainedTokenizerBase) -> str:
    end = end_of_turn(tokenizer)
    said = f"{tokenizer.convert_ids_to_tokens(end)} ({end})"
    if end == tokenizer.eos_token_id:
        return said
    return f"{said}; the tokenizer names {tokenizer.eos_token}, which ends an answer too"


def _vocabulary(base: Base) -> str:
    embedding: Any = base.model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    highest = max(base.tokenizer.get_vocab().values())
    if highest >= rows:
        beyond = [token for token, number in base.tokenizer.get_vocab().items() if number >= rows]
        raise ConfigError(
            f"the tokenizer has {len(beyond)} tokens without a row in the embedding of {rows}, "
            f"such as {sorted(beyond)[0]!r}; the highest number is {highest}",
            "take tokenizer and weights of one release, or enlarge the embedding "
            "(model.resize_token_embeddings) and save the model again",
        )
    return f"{len(base.tokenizer)} tokens, the highest number {highest}, in {rows} rows"


def _uses(base: Base, params: Params) -> Iterator[Finding]:
    """Yield what a night's stages will make of the base."""
    form, finetuning = params.models.numeric_form, params.finetuning
    checks = (
        ("quantised", lambda base: _quantised(base, form)),
        ("adapted", lambda base: _adapted(base, finetuning)),
        ("students", lambda base: _students(base, params.distillation)),
        ("memory", lambda base: check_memory(base.model, finetuning, form, params.compute)),
    )
    yield from _look(base, checks)
    yield from _try(base, params)
    yield Finding("GGUF", _exported(base))


def _try(base: Base, params: Params) -> Iterator[Finding]:
    """Yield how a small model of the architecture fares in a night's stages."""
    settings = params.distillation
    with TemporaryDirectory(prefix="nightloom-trial-") as place:
        small = Path(place) / "model"
        try:
            write_small(small_config(base.config, base.model.num_parameters()), small)
        except ConfigError as error:
            yield Finding("trial", f"not tried: no small model can be made of it: {error.message}")
            return
        trial = run_trial(
            small,
            base.tokenizer,
            params.finetuning,
            numeric_form=params.models.numeric_form,
            dequantized=params.compute.dequantized_base,
            fits=settings.calibration_tokens > 0,
            shares=settings.weights == "shared",
        )
    yield from _tried(trial, prunes=_prunes(settings))


def _quantised(base: Base, form: str) -> str:
    if form == "float":
        return "nothing: the base is computed as it is stored"
    check_known(base.model)
    return f"{form}, {_share(base, every_target(base.model))}"


def _adapted(base: Base, params: FinetuningParams) -> str:
    if params.method == "full":
        return "full, every weight"
    return f"{params.method}, {_share(base, adapter_targets(base.model, params))}"


def _share(base: Base, targets: Targets) -> str:
    share = share_text(decoder_share(base.model, targets))
    return f"{share} of the decoder's weights: {', '.join(targets.names)}"


def _students(base: Base, params: DistillationParams) -> str:
    layers = len(decoder_layers(base.model)) if _prunes(params) else 0
    for size in params.students:
        if isinstance(size, int):
            check_layers(range(size), layers)
    return ", ".join(f"{size} of {layers} layers" if isinstance(size, int) else "a model of its own"
                     for size in params.students)  # fmt: skip


def _prunes(params: DistillationParams) -> bool:
    return any(isinstance(size, int) for size in params.students)


def _tried(trial: Trial, *, prunes: bool) -> Iterator[Finding]:
    """Yield what a small model of the architecture showed."""
    parts = (
        ("trained", trial.trained, "params/finetuning.yaml or models.numeric_form"),
        ("served as trained", trial.served, "params/finetuning.yaml or models.numeric_form"),
    )
    for name, outcome, place in parts:
        mending = outcome.remedy or f"take another base, or change {place}"
        yield _outcome(name, outcome.fault, mending)
    yield Finding("packed", "exactly" if trial.packs else "no: each example alone, which is slower")
    together = "together" if trial.decodes_together else "one at a time, which is slower"
    yield Finding("answers", together)
    if prunes:
        mending = "set distillation.students: [model] and name a smaller model under models.student"
        yield _outcome("pruned", trial.pruned.fault, trial.pruned.remedy or mending)


def _outcome(name: str, fault: str | None, remedy: str) -> Finding:
    if fault is None:
        return Finding(name, "yes, tried on a small model of its architecture")
    return Finding(name, "refused", f"a small model of its architecture failed: {fault}", remedy)


def _exported(base: Base) -> str:
    """Return whether a model of it can be written for llama.cpp; safetensors can be always."""
    try:
        check_architecture(base.config)
        read_vocabulary(base.tokenizer, base.config.vocab_size)
    except ConfigError as error:
        return f"no: {error.message.partition(';')[0]}; safetensors, yes"
    return "yes, and safetensors"
