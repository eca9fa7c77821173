"""A model's architecture without its size: on torch's meta device whole, or small and in memory."""

import copy
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tasks.stage.errors import ConfigError

_HEADS, _WIDTH, _EXPERTS = 4, 16, 4
# Names under which configs keep their sizes, and what a small model has there at most.
_SIZES = {
    "vocab_size": 512,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_local_experts": _EXPERTS,
    "num_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "num_experts_per_tok": 2,
    "head_dim": _WIDTH,
}
_SMALL_ENOUGH = 5_000_000
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(folder: Path) -> PretrainedConfig:
    """Return the config of a model folder.

    Raises:
        ConfigError: transformers has no causal model for it.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _unknown(error) from None
    return config


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """Return the model of a config whose weights have shapes and no numbers.

    Raises:
        ConfigError: transformers has no causal model for it, or its sizes do not go together.
    """
    try:
        with torch.device("meta"):
            return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _unknown(error) from None


def _unknown(error: Exception) -> ConfigError:
    return ConfigError(
        "transformers can't build the model that config.json describes: "
        f"{' '.join(str(error).split())[:300]}",
        "use a text model whose architecture the installed transformers knows",
    )


def small_config(config: PretrainedConfig, weights: int) -> PretrainedConfig:
    """Return the config of a model that differs in size alone; a small one's as it is."""
    if weights <= _SMALL_ENOUGH:
        return copy.deepcopy(config)
    small: Any = copy.deepcopy(config.get_text_config())
    heads = small.num_attention_heads
    grouped = getattr(small, "num_key_value_heads", None) or heads
    for name, most in _SIZES.items():
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, min(getattr(small, name), most))
    small.num_attention_heads = _HEADS
    if getattr(small, "num_key_value_heads", None) is not None:
        small.num_key_value_heads = _HEADS if grouped == heads else 1 if grouped == 1 else 2
    small.hidden_size = _HEADS * _WIDTH
    _keep_layers(small)
    _shorten_rotations(small)
    for name in _TOKENS:
        setattr(small, name, None)
    return cast(PretrainedConfig, small)


def _keep_layers(config: Any) -> None:
    """Keep the first layers, as many as show every kind that there is, and two at least."""
    total = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or []
    firsts = [kinds.index(kind) + 1 for kind in set(kinds)]
    kept = min(total, max([2, *firsts]))
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == total:
            setattr(config, name, value[:kept])
    config.num_hidden_layers = kept


def _shorten_rotations(config: Any) -> None:
    """Cut factors that are given for each pair of a head's numbers."""
    pairs = _WIDTH // 2
    given = getattr(config, "rope_parameters", None) or {}
    for one in (given, *(item for item in given.values() if isinstance(item, dict))):
        for name in ("short_factor", "long_factor"):
            if isinstance(one.get(name), list):
                one[name] = one[name][:pairs]


def write_small(config: PretrainedConfig, folder: Path) -> None:
    """Write a model of random weights, always the same, as a folder.

    Raises:
        ConfigError: transformers can't build it.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _unknown(error) from None
