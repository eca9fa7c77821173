"""The memory that a base will take, from shapes alone."""

from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.finetuning.adapter import adapter_targets
from tasks.finetuning.params import FinetuningParams
from tasks.models.linear_maps import decoder_linears, linear_weights, target_weights
from tasks.stage.errors import ConfigError
from tasks.stage.params import ComputeParams

_FLOAT32 = 4
# Four bits, and a scale of eight bits with its own scale for each 64 of them.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
_FORMS = {"nf4_dequantized": _NF4, "int8_dequantized": 1.0}
# The share of a pack's places that are learned, for the logits; measured at 0.1 to 0.3.
_LEARNED = 0.25


def check_memory(
    model: PreTrainedModel,
    params: FinetuningParams,
    numeric_form: str,
    compute: ComputeParams,
) -> str:
    """Return about how much memory training and serving take.

    Raises:
        ConfigError: the weights alone are more than the device has.
    """
    width = torch.finfo(getattr(torch, params.dtype)).bits // 8
    total = model.num_parameters()
    form = None if compute.dequantized_base else _FORMS.get(numeric_form)
    quantised = sum(layer.weight.numel() for _, layer in decoder_linears(model)) if form else 0
    adapted = _adapted(model, params).values()
    # peft adds experts' adapters to a copy of their weights, which the backward pass keeps.
    copied = sum(weight.numel() for weight in adapted if weight.dim() == 3)
    weights = (form or 0) * quantised + width * (total - quantised + copied)
    # An adapter has its rank of numbers for each that a map reads and makes.
    ranks = sum(one.numel() // one.shape[-1] + one.numel() // one.shape[-2] for one in adapted)
    trained = total if params.method == "full" else params.rank * ranks
    # Beside the weights their gradients, and the optimizer's two moments.
    optimizer = trained * _FLOAT32 * (3 if params.method == "full" else 4)
    activations = compute.micro_batch_tokens * _token_bytes(model, width)
    serving = _FLOAT32 * total
    name, device = _device(compute)
    if max(weights, serving) > device:
        raise ConfigError(
            f"its weights take {weights / 1e9:.1f} GB in training and {serving / 1e9:.1f} GB where "
            f"it answers; {name} has {device / 1e9:.1f} GB",
            "take a smaller base, or a larger machine; compute.dequantized_base: false trains on "
            "the quantised weights themselves",
        )
    return (
        f"about {_shown(weights + optimizer + activations)} in training ({_shown(weights)} of them "
        f"weights), {_shown(serving)} of weights where it answers; {name} has {_shown(device)}"
    )


def _adapted(model: PreTrainedModel, params: FinetuningParams) -> dict[str, Tensor]:
    """Return the weights that an adapter stands on; none where all are trained."""
    if params.method == "full":
        return {}
    try:
        return target_weights(model, adapter_targets(model, params))
    except ConfigError:  # which is a finding of its own
        return {}


def _token_bytes(model: PreTrainedModel, width: int) -> float:
    """Return about what the backward pass keeps for one token: what each linear map reads and
    makes, and its share of the logits with their gradient.
    """
    config: Any = model.config.get_text_config()
    asked = getattr(config, "num_experts_per_tok", None) or 1
    maps = sum(
        sum(weight.shape[-2:]) * (asked if weight.dim() == 3 else 1)
        for weight in linear_weights(model).values()
    )
    return width * maps + 2 * _FLOAT32 * _LEARNED * int(config.vocab_size)


def _device(compute: ComputeParams) -> tuple[str, int]:
    """Return what the night computes on, and all of its memory."""
    if compute.device != "cpu" and torch.cuda.is_available():
        return "the GPU", int(torch.cuda.get_device_properties(0).total_memory)
    return "the machine", int(psutil.virtual_memory().total)


def _shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
