"""A model in a GGUF file, as the Hugging Face folder that it stands for.

transformers reads these files too, and parses the header in pure Python once for the config, once
for the weights and once for the tokenizer, 5 seconds each for a vocabulary of 49,152. Here the
header is walked by transformers' fast reader, which it keeps for newer architectures.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lm.gguf_layout import ARCHITECTURE, rotated_heads, tensor_names, to_halves
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig

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
    """The config that the header's keys stand for."""
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
    """The weights by their names in transformers, in float32.

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
