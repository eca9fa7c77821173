"""Teacher and student over one base: each has an adapter of its own and runs its own layers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tasks.distillation.pruning import decoder_layers, prune_shared
from tasks.lm.adapters import tidy_adapter
from tasks.lm.models import ADAPTER_WEIGHTS
from tasks.stage.errors import ConfigError

_LAYER = re.compile(r"(\.layers\.)(\d+)(\.)")


def share_teacher(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """The teacher, frozen: all layers of the base, whose weights are in memory once."""
    tree = prune_shared(base, range(len(decoder_layers(base))))
    return PeftModel.from_pretrained(tree, str(adapter)).eval()


def share_student(base: PreTrainedModel, adapter: Path, kept: Sequence[int]) -> PeftModel:
    """The kept layers of the base, with a trainable copy of the teacher's adapter on them.

    Raises:
        ConfigError: the adapter is not a LoRA whose layers are the base's.
    """
    student = get_peft_model(prune_shared(base, kept), lora_config(adapter))
    places = {number: place for place, number in enumerate(kept)}
    start = {}
    for name, weight in load_file(adapter / ADAPTER_WEIGHTS).items():
        found = _LAYER.search(name)
        if found is None or int(found[2]) in places:
            number = "" if found is None else str(places[int(found[2])])
            start[_LAYER.sub(rf"\g<1>{number}\g<3>", name)] = weight
    result: Any = set_peft_model_state_dict(student, start)
    absent = [name for name in result.missing_keys if "lora_" in name]
    if absent or result.unexpected_keys:
        raise ConfigError(
            f"{adapter} does not fit a student of these layers: {len(absent)} weights are missing "
            f"and {len(result.unexpected_keys)} have no place",
            "run finetuning again on this base, with a method whose adapter is a LoRA",
        )
    return student


def save_shared(
    student: PeftModel, adapter: Path, kept: Sequence[int], manifest: Path, folder: Path
) -> None:
    """Write a student's adapter in peft's format, its layers numbered as the base's.

    So the base takes it as it is; which layers run is told elsewhere.
    """
    config = lora_config(adapter)
    config.inference_mode = True
    config.layers_to_transform = list(kept)
    config.layers_pattern = "layers"
    folder.mkdir()
    config.save_pretrained(str(folder))
    weights = {
        _LAYER.sub(lambda found: f"{found[1]}{kept[int(found[2])]}{found[3]}", name): weight
        for name, weight in get_peft_model_state_dict(student, save_embedding_layers=False).items()
    }
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    tidy_adapter(folder, manifest)


def lora_config(adapter: Path) -> LoraConfig:
    """The config of a teacher's adapter, for an adapter that goes on learning.

    Raises:
        ConfigError: it is no LoRA.
    """
    if not (adapter / ADAPTER_WEIGHTS).exists():
        raise _not_lora(adapter)
    config = LoraConfig.from_pretrained(str(adapter))
    if not isinstance(config, LoraConfig):
        raise _not_lora(adapter)
    config.inference_mode = False
    return config


def _not_lora(adapter: Path) -> ConfigError:
    return ConfigError(
        f"{adapter} is no LoRA, and a student of shared weights starts from one",
        "set distillation.weights: full, or finetuning.method: qlora",
    )
