"""What is trained: a LoRA adapter of some kind or all weights; loaded, prepared and saved."""

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from transformers import PreTrainedModel

from tasks.finetuning.params import FinetuningParams
from tasks.models.linear_maps import Targets, check_known, every_target, expert_name
from tasks.models.loading import BASE_DIGEST_FILE, LanguageModel
from tasks.models.peft_library import (
    LoraConfig,
    PeftModel,
    convert_peft_config_for_transformers,
    get_peft_model,
)
from tasks.models.provenance import tidy_adapter
from tasks.sequences.attention import use_plain_attention
from tasks.stage.errors import ConfigError

_INITS: dict[str, Any] = {"default": True, "gaussian": "gaussian", "pissa": "pissa"}


def make_trainable(base: LanguageModel, params: FinetuningParams) -> PreTrainedModel | PeftModel:
    """Return the base with a fresh adapter on its target layers, or, by method full, all to be
    trained.

    Source: LoRA, Hu et al. 2021, arXiv:2106.09685, with the targets of Dettmers et al. 2023; DoRA,
    Liu et al. 2024, arXiv:2402.09353; rsLoRA, Kalajdzievski 2023, arXiv:2312.03732; PiSSA, Meng et
    al. 2024, arXiv:2404.02948.

    Raises:
        ConfigError: the base has no layer of a target's name.
    """
    set_seed(params.seed)
    if params.method == "full":
        base.model.requires_grad_(True)
        return base.model
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        **_peft_targets(base.model, params),
        use_dora=params.method == "dora",
        use_rslora=params.method == "rslora",
        init_lora_weights=_INITS[params.init],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base.model, config)


def adapter_targets(model: PreTrainedModel, params: FinetuningParams) -> Targets:
    """Return the linear maps that an adapter stands on.

    Raises:
        ConfigError: the base has none of a target's name, peft can't adapt it, or targets are all
            and the base's weights are not of linear maps.
    """
    every = every_target(model)
    if not every.names:
        raise ConfigError(
            f"{type(model).__name__} has no linear layer that an adapter could stand on",
            "set finetuning.method: full, or take another base",
        )
    taken = _taken_for_experts(model, every)
    if params.targets == "all":
        check_known(model)
        return replace(every, layers=tuple(name for name in every.layers if name not in taken))
    unknown = sorted(set(params.targets) - set(every.names))
    if unknown or not params.targets:
        raise ConfigError(
            f"finetuning.targets names {', '.join(unknown) or 'no layer'}; the base's linear "
            f"layers are {', '.join(every.names)}",
            "name some of these, or set targets: all",
        )
    experts = tuple(name for name in every.experts if expert_name(name) in params.targets)
    layers = tuple(sorted(set(params.targets) & set(every.layers) - taken))
    lost = sorted(set(params.targets) - {*layers, *map(expert_name, experts)})
    if lost:
        raise ConfigError(
            f"finetuning.targets names {', '.join(lost)}, which peft takes for experts' weights of "
            f"an earlier transformers in {type(model).__name__}",
            f"leave {', '.join(lost)} out, or set targets: all",
        )
    return Targets(layers, experts)


def _taken_for_experts(model: PreTrainedModel, every: Targets) -> set[str]:
    """Return the layers that peft would leave out: in some mixtures it reads their names as those
    that experts had before transformers 5, and adapts the experts' weights instead, at twice the
    rank.
    """
    if not every.experts:
        return set()
    config = LoraConfig(target_modules=list(every.layers), target_parameters=list(every.experts))
    convert_peft_config_for_transformers(config, model=model, conversions=None)
    return set(every.layers) - set(config.target_modules or ())


def _peft_targets(model: PreTrainedModel, params: FinetuningParams) -> dict[str, Any]:
    """Return peft's settings for what is adapted."""
    targets = adapter_targets(model, params)
    if targets.experts:
        _check_for_experts(params, targets.experts)
    return {
        "target_modules": list(targets.layers),
        "target_parameters": list(targets.experts) or None,
    }


def _check_for_experts(params: FinetuningParams, experts: Collection[str]) -> None:
    """Check that peft can put the adapter that params ask for on the weights of experts.

    Raises:
        ConfigError: it can't; a fault of its own would name none of our params.
    """
    settings = {
        "method dora": params.method == "dora",
        "init pissa": params.init == "pissa",
        "a dropout": params.dropout > 0,
    }
    asked = [name for name, given in settings.items() if given]
    if asked:
        raise ConfigError(
            f"experts' weights ({', '.join(sorted(experts))}) can't be adapted with "
            f"{' and '.join(asked)}",
            "in params/finetuning.yaml set method qlora or lora, init default and dropout 0.0; or "
            "name other layers under targets",
        )


def keep_start(model: PreTrainedModel | PeftModel, params: FinetuningParams, folder: Path) -> None:
    """Write what an adapter starts from, where that is not nothing and so must be taken off."""
    if params.init == "pissa":
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(str(folder))


def save_trained(
    model: PreTrainedModel | PeftModel,
    params: FinetuningParams,
    manifest: Path,
    folder: Path,
    start: Path,
) -> None:
    """Write an adapter in peft's format, or a whole model, with the manifest of its base.

    `start` is where `keep_start` wrote; an adapter that began there becomes one of twice the rank
    that any base takes as it is.
    """
    if isinstance(model, PeftModel):
        begun = str(start) if params.init == "pissa" else None
        model.save_pretrained(str(folder), path_initial_model_for_weight_conversion=begun)
        tidy_adapter(folder, manifest)
    else:
        use_plain_attention(model)
        model.save_pretrained(folder)
        shutil.copyfile(manifest, folder / BASE_DIGEST_FILE)
