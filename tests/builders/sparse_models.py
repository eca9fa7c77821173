"""Model folders of any size that take no disk: safetensors whose numbers are a hole in the file."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig


def write_sparse(config: PretrainedConfig, folder: Path) -> None:
    """Write a model's config and weights, all of them zero, in bfloat16."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    header, end = {}, 0
    for name, weight in model.named_parameters():
        size = 2 * weight.numel()
        shape = list(weight.shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
