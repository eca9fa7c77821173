"""The linear maps of a decoder, which are quantised and adapted, and their share of its weights.

They are found by what a layer computes: torch's linear layers and GPT-2's, and the weights that
hold the maps of all of a layer's experts.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.stage.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"

# GPT-2's holds its weight with rows for columns.
LinearLayer = nn.Linear | Conv1D

# Which share of a decoder's weights may stand in matrices that are no linear map known here.
_MOST_UNKNOWN = 0.1


def decoder_linears(model: PreTrainedModel) -> list[tuple[str, LinearLayer]]:
    """Return the linear layers below the vocabulary head."""
    head = model.get_output_embeddings()
    return [
        (name, module)
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head
    ]


def _is_linear(module: nn.Module) -> TypeGuard[LinearLayer]:
    """Return whether a module is a linear layer, or bitsandbytes' quantised form of one.

    A subclass may compute anything: some mixtures' routers are such. bitsandbytes quantises none.
    """
    kind = type(module)
    held = isinstance(module, nn.Linear) and kind.__module__.startswith("bitsandbytes.")
    return held or kind in (nn.Linear, Conv1D)


def fused_experts(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """Return the weights that hold the linear maps of all of a layer's experts, one a matrix."""
    return [
        (f"{place}.{name}", weight)
        for place, module in model.named_modules()
        if "Experts" in type(module).__name__ or hasattr(module, "num_experts")
        for name, weight in module.named_parameters(recurse=False)
        if weight.dim() == 3
    ]


@dataclass(frozen=True)
class Targets:
    """Linear maps by what they are called: layers in their own modules (`q_proj`), and weights of
    experts with their modules (`experts.down_proj`).
    """

    layers: tuple[str, ...]
    experts: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Return what people call them, each name once, sorted."""
        return sorted({*self.layers, *map(expert_name, self.experts)})


def expert_name(name: str) -> str:
    """Return what people call the weight of experts: its module's name, where it has none."""
    return last_part(name.removesuffix(".weight"))


def last_part(name: str) -> str:
    """Return what a layer or a weight is called in its own module."""
    return name.rpartition(".")[2]


def every_target(model: PreTrainedModel) -> Targets:
    """Return what all linear maps below the vocabulary head are called."""
    layers = {last_part(name) for name, _ in decoder_linears(model)}
    experts = {_with_module(name) for name, _ in fused_experts(model)}
    return Targets(tuple(sorted(layers)), tuple(sorted(experts)))


def target_weights(model: PreTrainedModel, targets: Targets) -> dict[str, Tensor]:
    """Return the weights of linear maps that are called so, by the names of layers and weights."""
    layers = {
        name: layer.weight
        for name, layer in decoder_linears(model)
        if last_part(name) in targets.layers
    }
    experts = {
        name: weight
        for name, weight in fused_experts(model)
        if _with_module(name) in targets.experts
    }
    return layers | experts


def linear_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights of all linear maps below the vocabulary head."""
    return target_weights(model, every_target(model))


def decoder_share(model: PreTrainedModel, targets: Targets) -> float:
    """Return the share of the decoder's numbers in the linear maps that are called so.

    The decoder is all but embeddings and the vocabulary head.
    """
    meant = target_weights(model, targets).values()
    return _count(meant) / _count(_decoder(model).values())


def check_known(model: PreTrainedModel) -> None:
    """Check that nearly all matrices of a decoder are of linear maps that are known here.

    Raises:
        ConfigError: more than a tenth of its numbers stand in others; they would be neither
            quantised nor adapted.
    """
    known = {id(weight) for weight in linear_weights(model).values()}
    decoder = _decoder(model)
    others = {
        name: weight
        for name, weight in decoder.items()
        if weight.dim() > 1 and id(weight) not in known
    }
    share = _count(others.values()) / _count(decoder.values())
    if share > _MOST_UNKNOWN:
        raise ConfigError(
            f"{share_text(share)} of the decoder's weights can be neither quantised nor adapted: "
            f"{', '.join(sorted({_within_layer(name) for name in others}))} are of no linear layer "
            "that is known here, nor a layer's experts",
            "take another base; or set models.numeric_form: float and finetuning.method: full",
        )


def share_text(share: float) -> str:
    """Return a share in per cent, rounded down: what is not all is never called all."""
    return f"{math.floor(share * 1000) / 10:.1f}%"


@dataclass(frozen=True)
class Shares:
    """Shares of the decoder's numbers, which are all but the embedding and the vocabulary head."""

    quantised: float
    adapted: float


def read_shares(base: Path, trained: Path, numeric_form: str) -> Shares:
    """Return which shares of the base in a folder are quantised, and adapted by what was trained.

    A folder without an adapter's config is a model all of whose weights were trained.
    """
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        model = AutoModelForCausalLM.from_config(config)
    quantised = 0.0 if numeric_form == "float" else decoder_share(model, every_target(model))
    path = trained / ADAPTER_CONFIG
    adapted = decoder_share(model, _adapted(path)) if path.is_file() else 1.0
    return Shares(quantised, adapted)


def _adapted(path: Path) -> Targets:
    """Return what an adapter's config names."""
    content = json.loads(path.read_text(encoding="utf-8"))
    experts = content.get("target_parameters") or ()
    return Targets(tuple(content["target_modules"]), tuple(experts))


def _decoder(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return all weights by name but those of embeddings and of the vocabulary head."""
    head = model.get_output_embeddings()
    outside = {
        id(weight)
        for layer in model.modules()
        if isinstance(layer, nn.Embedding) or layer is head
        for weight in layer.parameters()
    }
    return {name: one for name, one in model.named_parameters() if id(one) not in outside}


def _with_module(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _count(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() for weight in weights)


def _within_layer(name: str) -> str:
    """Return a weight's name from behind the number of its layer."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[0] + 1 :] if numbers else parts)
