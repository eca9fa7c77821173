"""The families of models that llama.cpp computes as transformers does, and how it wants them.

One table says what differs between them; names of weights are those of the package `gguf`. Keys and
transforms follow llama.cpp's loader and graphs (src/models/*.cpp).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    MODEL_TENSOR,
    TENSOR_NAMES,
    GGUFWriter,
    RopeScalingType,
    get_tensor_name_map,
)
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tasks.models.gguf import rotated_heads, to_pairs
from tasks.stage.errors import ConfigError

Config = PretrainedConfig
_SLIDING = "sliding_attention"


@dataclass(frozen=True)
class Family:
    """One family: llama.cpp's architecture, and what it takes for given where a config can differ.

    `pairs`: a head's rows lie by pairs that rotate together. `shift`: what is added to the weights
    of norms. `window_every`: each so many-th layer sees all of the context, the others a window;
    None where llama.cpp computes no windows.
    """

    architecture: MODEL_ARCH
    activation: str = "silu"
    rotations: frozenset[str] = frozenset({"default", "linear", "yarn"})
    pairs: bool = False
    shift: float = 0.0
    window_every: int | None = None
    # Layers of the one size whose scores are scaled by the width of the model over its heads.
    scaled_by_model: int | None = None
    caps_logits: bool = False

    @property
    def name(self) -> str:
        """Return llama.cpp's name of the architecture."""
        return str(MODEL_ARCH_NAMES[self.architecture])


_LLAMA = Family(
    MODEL_ARCH.LLAMA, pairs=True, rotations=frozenset({"default", "linear", "yarn", "llama3"})
)
_GELU = "gelu_pytorch_tanh"
_LINEAR = frozenset({"default", "linear"})

# By the `model_type` of transformers.
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Family(MODEL_ARCH.QWEN2),
    "qwen3": Family(MODEL_ARCH.QWEN3),
    "gemma": Family(MODEL_ARCH.GEMMA, _GELU, _LINEAR, shift=1),
    "gemma2": Family(
        MODEL_ARCH.GEMMA2, _GELU, _LINEAR, shift=1, window_every=2, scaled_by_model=46,
        caps_logits=True,
    ),
    "gemma3_text": Family(
        MODEL_ARCH.GEMMA3, _GELU, _LINEAR, shift=1, window_every=6, scaled_by_model=62
    ),
    "phi3": Family(MODEL_ARCH.PHI3, rotations=frozenset({"default", "longrope"})),
}  # fmt: skip


def check_architecture(config: Config) -> None:
    """Check that llama.cpp computes a model as transformers does.

    Raises:
        ConfigError: it does not, with what the model has besides.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        odd = [f"the architecture {config.model_type}"]
    else:
        odd = list(_oddities(config, family))
    if odd:
        raise ConfigError(
            f"the model has {' and '.join(odd)}; GGUF is written for models of architecture "
            f"{', '.join(FAMILIES)}, as llama.cpp computes them",
            "export with --format safetensors, and convert that with llama.cpp's own converter",
        )


def _oddities(config: Config, family: Family) -> Iterator[str]:
    """Yield what llama.cpp would compute otherwise."""
    activation = _value(config, "hidden_activation") or _value(config, "hidden_act") or "silu"
    kind = _rotation(config)["rope_type"]
    if _value(config, "attention_bias"):
        yield "biases in attention"
    if _value(config, "mlp_bias"):
        yield "biases in its feed-forward layers"
    if activation != family.activation:
        yield f"an activation other than {family.activation}"
    if kind not in family.rotations or (kind == "yarn" and _tunes_yarn(config)):
        yield f"rotations of kind {kind}"
    if _value(config, "use_bidirectional_attention"):
        yield "attention to later tokens"
    if _value(config, "query_pre_attn_scalar") not in (None, _divisor(config, family)):
        yield f"attention divided by the root of {config.query_pre_attn_scalar}"
    caps = [bool(_value(config, f"{name}_logit_softcapping")) for name in ("attn", "final")]
    if caps != [family.caps_logits] * 2:
        yield "caps on logits that are others than its family's"
    # Windows in more layers cost context alone, unless layers without one rotate otherwise.
    harmless = not _rotates_by_layer(config) and (not family.window_every or all(_sliding(config)))
    if not harmless and not _slides_as_expected(config, family):
        yield f"windows in other layers than all but every {family.window_every}th"
    if family.architecture is MODEL_ARCH.PHI3 and _width(config) * config.num_attention_heads != (
        config.hidden_size
    ):
        yield "heads that are not as wide together as the model"


def _value(config: Config, name: str) -> Any:
    return getattr(config, name, None)


def _width(config: Config) -> int:
    """Return how many numbers a head has."""
    return int(_value(config, "head_dim") or config.hidden_size // config.num_attention_heads)


def _divisor(config: Config, family: Family) -> int:
    """Return by whose root llama.cpp divides the scores of attention."""
    if config.num_hidden_layers == family.scaled_by_model:
        return int(config.hidden_size // config.num_attention_heads)
    return _width(config)


def _rotates_by_layer(config: Config) -> bool:
    return _SLIDING in config.rope_parameters


def _rotation(config: Config, layers: str = "full_attention") -> dict[str, Any]:
    """Return how positions are rotated in layers of a kind."""
    found: dict[str, Any] = config.rope_parameters
    return found[layers] if _rotates_by_layer(config) else found


def _tunes_yarn(config: Config) -> bool:
    """Return whether YaRN is set by more than llama.cpp reads."""
    named = ("attention_factor", "mscale", "mscale_all_dim", "truncate")
    return any(_rotation(config).get(name) is not None for name in named)


def _sliding(config: Config) -> list[bool]:
    """Return of each layer whether it sees a window of the context alone."""
    kinds = _value(config, "layer_types")
    if kinds is None:
        kinds = [_SLIDING if _value(config, "sliding_window") else ""] * config.num_hidden_layers
    return [kind == _SLIDING for kind in kinds]


def _slides_as_expected(config: Config, family: Family) -> bool:
    every = family.window_every
    if every is None:
        return not any(_sliding(config))
    expected = [(layer + 1) % every != 0 for layer in range(config.num_hidden_layers)]
    return _sliding(config) == expected


def _context(config: Config, family: Family) -> int:
    """Return over how many tokens llama.cpp computes what transformers does.

    Of two sets of factors for rotations it takes one by the context that it is given,
    transformers by the length of what is asked: they agree up to where the second begins.
    """
    most = int(config.max_position_embeddings)
    if any(_sliding(config)) and not _slides_as_expected(config, family):
        most = min(most, int(config.sliding_window))
    if _rotation(config)["rope_type"] == "longrope":
        most = min(most, _original_length(config))
    return most


def describe_shape(writer: GGUFWriter, config: Config) -> None:
    """Write the keys from which llama.cpp builds the model."""
    family = FAMILIES[config.model_type]
    width, rotation = _width(config), _rotation(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(_context(config, family))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(int(width * rotation.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rotation["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family.window_every is not None:
        writer.add_sliding_window(config.sliding_window)
    if _rotates_by_layer(config):
        writer.add_rope_freq_base_swa(float(_rotation(config, _SLIDING)["rope_theta"]))
    if family.caps_logits:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    describe = _SCALINGS.get(rotation["rope_type"])
    if describe is not None:
        describe(writer, config)


def _describe_linear(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(float(_rotation(config)["factor"]))


def _describe_yarn(writer: GGUFWriter, config: Config) -> None:
    rotation = _rotation(config)
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(float(rotation["factor"]))
    writer.add_rope_scaling_orig_ctx_len(_original_length(config))
    writer.add_rope_scaling_yarn_beta_fast(float(rotation.get("beta_fast") or 32))
    writer.add_rope_scaling_yarn_beta_slow(float(rotation.get("beta_slow") or 1))


def _describe_longrope(writer: GGUFWriter, config: Config) -> None:
    _, factor = _frequencies(config, "longrope")
    writer.add_rope_scaling_attn_factors(factor)
    writer.add_rope_scaling_orig_ctx_len(_original_length(config))


_SCALINGS: Mapping[str, Callable[[GGUFWriter, Config], None]] = {
    "linear": _describe_linear,
    "yarn": _describe_yarn,
    "longrope": _describe_longrope,
}


def _original_length(config: Config) -> int:
    """Return the context that a model with scaled positions was first trained on."""
    found = _rotation(config).get("original_max_position_embeddings")
    return int(found or config.original_max_position_embeddings)


def _frequencies(config: Config, kind: str) -> tuple[Tensor, float]:
    """Return transformers' own frequencies of rotations, and what it multiplies them by."""
    found: tuple[Tensor, float] = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return found


def rotation_factors(config: Config) -> dict[str, NDArray[np.float32]]:
    """Return what llama.cpp divides the frequencies of rotations by, by GGUF's names of tensors."""
    rotation = _rotation(config)
    factors: dict[MODEL_TENSOR, Any] = {}
    if rotation["rope_type"] == "llama3":
        scaled, _ = _frequencies(config, "llama3")
        width = _width(config)
        plain = rotation["rope_theta"] ** -(torch.arange(0, width, 2).float() / width)
        factors[MODEL_TENSOR.ROPE_FREQS] = (plain / scaled).numpy()
    if rotation["rope_type"] == "longrope":
        factors[MODEL_TENSOR.ROPE_FACTORS_LONG] = rotation["long_factor"]
        factors[MODEL_TENSOR.ROPE_FACTORS_SHORT] = rotation["short_factor"]
    return {
        f"{TENSOR_NAMES[tensor]}.weight": np.asarray(values, dtype=np.float32)
        for tensor, values in factors.items()
    }


# The order in which a file holds the weights: these, and then those of each block.
_WHOLE = ("model.embed_tokens", "model.norm", "lm_head")
_PARTS = (
    "input_layernorm",
    "self_attn.qkv_proj",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.gate_up_proj",
    "mlp.down_proj",
    "post_feedforward_layernorm",
)


def tensor_names(model: PreTrainedModel) -> dict[str, str]:
    """Return the GGUF name of every weight, by its name in transformers, in the order of a file.

    Where the output is tied to the embedding, it is not stored.

    Raises:
        ConfigError: the model holds a weight that llama.cpp has no place for.
    """
    config = model.config
    layers = config.num_hidden_layers
    known = get_tensor_name_map(FAMILIES[config.model_type].architecture, layers)
    blocks = [f"model.layers.{layer}.{part}" for layer in range(layers) for part in _PARTS]
    held = {name for name in model.state_dict() if not (_is_tied(config) and "lm_head" in name)}
    found = {}
    for module in (*_WHOLE, *blocks):
        for kind in ("weight", "bias"):
            name = f"{module}.{kind}"
            theirs = known.get_name(module) if name in held else None
            if theirs is not None:
                found[name] = f"{theirs}.{kind}"
    odd = sorted(held - found.keys())
    if odd:
        raise ConfigError(
            f"the model holds {len(odd)} weights that llama.cpp has no place for in architecture "
            f"{FAMILIES[config.model_type].name}, such as {odd[0]}",
            "export with --format safetensors, and convert that with llama.cpp's own converter",
        )
    return found


def _is_tied(config: Config) -> bool:
    return bool(config.tie_word_embeddings)


def to_llama_cpp(name: str, weight: Tensor, config: Config) -> Tensor:
    """Return a weight as llama.cpp computes with it, by its name in transformers."""
    family = FAMILIES[config.model_type]
    if family.shift and name.endswith("norm.weight"):
        return weight + family.shift
    heads = rotated_heads(name, config.to_dict()) if family.pairs else 0
    return to_pairs(weight, heads) if heads else weight
