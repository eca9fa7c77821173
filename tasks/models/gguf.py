"""GGUF files of architecture `llama`: their layout, and how one becomes a folder of safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig


ARCHITECTURE = "llama"

_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}

_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensor_names(layers: int, *, tied: bool) -> dict[str, str]:
    """Return the GGUF name of every weight, by its name in transformers.

    Where the output is `tied` to the embedding, it is not stored.
    """
    names = {ours: theirs for ours, theirs in _WHOLE.items() if not (tied and "lm_head" in ours)}
    for layer in range(layers):
        for ours, theirs in _BLOCK.items():
            names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    return names


def rotated_heads(name: str, config: Mapping[str, int]) -> int:
    """Return how many heads a weight rotates, by its name in transformers; 0 for none."""
    if name.endswith("self_attn.q_proj.weight"):
        return config["num_attention_heads"]
    if name.endswith("self_attn.k_proj.weight"):
        return config["num_key_value_heads"]
    return 0


def to_pairs(weight: Tensor, heads: int) -> Tensor:
    """Return the rows of each head, those that rotate together side by side, as GGUF has them."""
    pairs: Tensor = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2)
    return pairs.reshape(weight.shape)


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """Return the rows of each head as transformers has them: half a head apart what rotates
    together.
    """
    halves: Tensor = weight.unflatten(0, (heads, -1, 2)).transpose(1, 2)
    return halves.reshape(weight.shape)


_CONFIG_PARTS = ("general", ARCHITECTURE, "tokenizer")


def unpack_gguf(path: Path, target: Path) -> None:
    """Write the model of a GGUF file, dequantised to float32, and its tokenizer into a folder.

    Raises:
        ConfigError: its architecture is not `llama`, or its weights are not those of one.
    """
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

    metadata, names = read_gguf_metadata(str(path))
    config = _config(path, metadata, names)
    weights = _weights(path, GgufHeader.from_file(str(path)), config)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.save_pretrained(target)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(target)


def _config(path: Path, metadata: dict[str, Any], names: tuple[str, ...]) -> "LlamaConfig":
    """Return the config that the header's keys stand for."""
    from transformers import LlamaConfig
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    architecture = metadata["general.architecture"]
    if architecture != ARCHITECTURE:
        raise ConfigError(
            f"{path.name} holds a model of architecture {architecture!r}; GGUF files are read of "
            f"architecture {ARCHITECTURE!r} alone",
            "use the model's safetensors folder",
        )
    mapping: Any = GGUF_CONFIG_MAPPING
    values = {
        ours: metadata[f"{part}.{theirs}"]
        for part in _CONFIG_PARTS
        for theirs, ours in mapping.get(part, {}).items()
        if ours is not None and f"{part}.{theirs}" in metadata
    }
    # The reader leaves a vocabulary as its length.
    values.setdefault("vocab_size", metadata["tokenizer.ggml.tokens"])
    return LlamaConfig(**values | {"tie_word_embeddings": "output.weight" not in names})


def _weights(path: Path, header: Any, config: "LlamaConfig") -> dict[str, "Tensor"]:
    """Return the weights by their names in transformers, in float32.

    Raises:
        ConfigError: the file lacks weights of such a model, or holds others.
    """
    import torch
    from gguf import GGMLQuantizationType, dequantize
    from transformers.integrations.gguf.reader import load_gguf_state_dict

    stored = load_gguf_state_dict(header)
    names = tensor_names(config.num_hidden_layers, tied=config.tie_word_embeddings)
    odd = sorted(stored.keys() ^ set(names.values()))
    if odd:
        raise ConfigError(
            f"{path.name} and a {ARCHITECTURE} model of {config.num_hidden_layers} layers differ "
            f"in {len(odd)} weights, such as {odd[0]}",
            "use the model's safetensors folder",
        )
    found = {}
    for ours, theirs in names.items():
        kind = GGMLQuantizationType(header.ggml_types[theirs])
        weight = torch.from_numpy(dequantize(stored[theirs][...].numpy(), kind))
        heads = rotated_heads(ours, config.to_dict())
        found[ours] = to_halves(weight, heads) if heads else weight
    return found
