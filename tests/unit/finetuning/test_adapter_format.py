"""An adapter's folder is peft's own, and what vLLM's `--lora-modules` asks of one."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tasks.finetuning.adapter import make_trainable, save_trained
from tasks.models.manifest import ModelManifest
from tests.unit.conftest import Tiny
from tests.unit.finetuning.test_finetuning import PARAMS, loaded


def trained(tiny: Tiny, folder: Path) -> Path:
    """A folder as fine-tuning writes it, with weights that change something."""
    model = make_trainable(loaded(tiny), PARAMS)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1
    save_trained(model, PARAMS, tiny.base, folder, folder / "start")
    return folder


def test_peft_loads_the_folder_onto_the_plain_base(tiny: Tiny, tmp_path: Path) -> None:
    folder = trained(tiny, tmp_path)
    assert isinstance(PeftConfig.from_pretrained(str(folder)), LoraConfig)
    base = AutoModelForCausalLM.from_pretrained(ModelManifest.read(tiny.base).folder(tiny.store))
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(folder))
        assert not torch.allclose(adapted(ids).logits, before)


def test_the_folder_is_what_vllm_can_load(tiny: Tiny, tmp_path: Path) -> None:
    """The conditions of vllm/lora/peft_helper.py and of its weights' names."""
    folder = trained(tiny, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert (config["bias"], config["modules_to_save"], config["use_dora"]) == ("none", None, False)
    assert isinstance(config["r"], int)
    assert isinstance(config["lora_alpha"], int)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as content:
        names = list(content.keys())
        shapes = {name: content.get_slice(name).get_shape() for name in names}
    for name in names:
        prefix, _, ending = name.rpartition(".lora_")
        assert prefix.startswith("base_model.model.model.layers.")
        assert prefix.rpartition(".")[2] in config["target_modules"]
        assert ending in ("A.weight", "B.weight")
        assert shapes[name][0 if ending == "A.weight" else 1] == config["r"]
