"""How a GGUF file of architecture `llama` names and arranges what a Hugging Face model holds.

Both ways: files are read (an embedded base) and written (an export) by the same table. llama.cpp
rotates neighbouring pairs of a head's rows where transformers rotates its halves, so the rows of
query and key are stored in another order (conversion/llama.py in llama.cpp, `permute`).
"""

from collections.abc import Mapping

from torch import Tensor

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
    """The GGUF name of every weight, by its name in transformers.

    Where the output is `tied` to the embedding, it is not stored.
    """
    names = {ours: theirs for ours, theirs in _WHOLE.items() if not (tied and "lm_head" in ours)}
    for layer in range(layers):
        for ours, theirs in _BLOCK.items():
            names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    return names


def rotated_heads(name: str, config: Mapping[str, int]) -> int:
    """How many heads a weight rotates, by its name in transformers; 0 where it rotates none."""
    if name.endswith("self_attn.q_proj.weight"):
        return config["num_attention_heads"]
    if name.endswith("self_attn.k_proj.weight"):
        return config["num_key_value_heads"]
    return 0


def to_pairs(weight: Tensor, heads: int) -> Tensor:
    """The rows of each head with those that rotate together side by side, as GGUF has them."""
    pairs: Tensor = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2)
    return pairs.reshape(weight.shape)


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """The rows of each head as transformers has them: half a head apart what rotates together."""
    halves: Tensor = weight.unflatten(0, (heads, -1, 2)).transpose(1, 2)
    return halves.reshape(weight.shape)
