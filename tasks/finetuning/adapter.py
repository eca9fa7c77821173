"""LoRA adapters: put on a base, and saved so that the same training gives the same bytes."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import set_seed

from tasks.finetuning.params import FinetuningParams
from tasks.lm.conversion import ModelManifest
from tasks.lm.models import (
    BASE_DIGEST_FILE,
    LanguageModel,
    decoder_linears,
    hold_dequantized,
    load_base,
    load_quantized,
)

_CONFIG = "adapter_config.json"


def load_for_training(
    params: FinetuningParams,
    manifest: Path,
    store: Path,
    device: torch.device,
    *,
    dequantized: bool,
) -> LanguageModel:
    """The base that the method trains on: NF4 for QLoRA, float32 for LoRA.

    `dequantized` holds QLoRA's weights dequantised: the same training, faster, in more memory.
    """
    if params.method == "qlora":
        dtype = getattr(torch, params.dtype)
        base = load_quantized(manifest, store, compute_dtype=dtype, device=device)
        if dequantized:
            hold_dequantized(base.model)
        return base
    return load_base(manifest, store, numeric_form="float", device=device)


def add_adapter(base: LanguageModel, params: FinetuningParams) -> PeftModel:
    """The base with a fresh adapter on every linear layer of its decoder.

    Source: Hu et al. 2021, arXiv:2106.09685, with the targets of Dettmers et al. 2023.
    """
    set_seed(params.seed)
    targets = sorted({name.rpartition(".")[2] for name, _ in decoder_linears(base.model)})
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base.model, config)


def save_adapter(model: PeftModel, manifest: Path, folder: Path) -> None:
    """Write an adapter in peft's format, with the manifest of the base that it was made for."""
    model.save_pretrained(str(folder), safe_serialization=True)
    # peft's own card names the folder that the base was loaded from.
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / _CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = ModelManifest.read(manifest).name
    # peft keeps the targets in a set, whose order changes with the hash seed.
    config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(manifest, folder / BASE_DIGEST_FILE)
