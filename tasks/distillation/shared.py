"""Teacher and student over one base: each has an adapter of its own and runs its own layers."""

import re
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tasks.distillation.pruning import prune_shared
from tasks.lm.models import ADAPTER_WEIGHTS
from tasks.stage.errors import ConfigError

_LAYER = re.compile(r"(\.layers\.)(\d+)(\.)")


def share(
    base: PreTrainedModel, adapter: Path, kept: Sequence[int]
) -> tuple[PeftModel, PeftModel]:
    """Teacher and student over the weights of one base, which are in memory once.

    The teacher is the base with its adapter, frozen; the student has the kept layers alone, with a
    trainable copy of the teacher's adapter on them to start from. `base` becomes the teacher.

    Raises:
        ConfigError: the adapter is not a LoRA whose layers are the base's.
    """
    tree = prune_shared(base, kept)
    teacher = PeftModel.from_pretrained(base, str(adapter))
    student = get_peft_model(tree, _trainable_config(adapter))
    places = {number: place for place, number in enumerate(kept)}
    start = {}
    for name, weight in load_file(adapter / ADAPTER_WEIGHTS).items():
        found = _LAYER.search(name)
        if found is None or int(found[2]) in places:
            number = "" if found is None else str(places[int(found[2])])
            start[_LAYER.sub(rf"\g<1>{number}\g<3>", name)] = weight
    result = set_peft_model_state_dict(student, start)
    absent = [name for name in result.missing_keys if "lora_" in name]
    if absent or result.unexpected_keys:
        raise ConfigError(
            f"{adapter} does not fit a student of these layers: {len(absent)} weights are missing "
            f"and {len(result.unexpected_keys)} have no place",
            "run finetuning again on this base, with a method whose adapter is a LoRA",
        )
    return teacher.eval(), student


def _trainable_config(adapter: Path) -> LoraConfig:
    config = LoraConfig.from_pretrained(str(adapter))
    if not isinstance(config, LoraConfig):
        raise ConfigError(
            f"{adapter} is no LoRA, and a student of shared weights starts from one",
            "set distillation.weights: full, or finetuning.method: qlora",
        )
    config.inference_mode = False
    return config
