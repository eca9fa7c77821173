"""A Llama-shaped model written as a GGUF file, with all that llama.cpp needs to run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    LlamaFileType,
    quantize,
)
from gguf.quants import quant_shape_to_byte_shape
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tasks.export.vocabulary import MODEL, read_vocabulary
from tasks.lm.gguf_layout import ARCHITECTURE, rotated_heads, tensor_names, to_pairs
from tasks.lm.models import LanguageModel
from tasks.records.export_format import Format
from tasks.stage.errors import ConfigError

_KINDS = {
    Format.gguf_f16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    Format.gguf_q8_0: (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    Format.gguf_q4_1: (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    Format.gguf_q4_0: (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
# The vocabulary, in which 4 bits cost most: llama.cpp too keeps more of it.
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
_FOUR_BITS = (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1)
_BLOCK = 32  # weights of a row that share a scale, in all of these kinds


@dataclass(frozen=True)
class Description:
    """What the file says of where the model comes from."""

    name: str
    license: str
    base: str


def write_gguf(
    path: Path, language_model: LanguageModel, form: Format, description: Description
) -> None:
    """Write a model and its tokenizer, tensor by tensor.

    Raises:
        ConfigError: the model is not Llama-shaped, its rows don't fit the form's blocks, a weight
            is too large for float16, or llama.cpp has no such tokenizer.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    check_architecture(model.config)
    vocabulary = read_vocabulary(tokenizer, model.config.vocab_size)
    kinds = weight_kinds(model, form)
    writer = GGUFWriter(path, ARCHITECTURE)
    _describe(writer, description, form)
    _add_shape(writer, model.config)
    writer.add_tokenizer_model(MODEL)
    writer.add_tokenizer_pre(vocabulary.way)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_space_prefix(False)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_chat_template(tokenizer.chat_template)
    _write_tensors(writer, model, kinds)


def check_architecture(config: PretrainedConfig) -> None:
    """Check that a model is what GGUF's architecture `llama` describes.

    Raises:
        ConfigError: it is not, with what it has besides.
    """
    rope = (config.to_dict().get("rope_parameters") or {}).get("rope_type", "default")
    odd = [
        text
        for is_odd, text in (
            (config.model_type != ARCHITECTURE, f"the architecture {config.model_type}"),
            (bool(getattr(config, "attention_bias", False)), "biases in attention"),
            (bool(getattr(config, "mlp_bias", False)), "biases in its feed-forward layers"),
            (getattr(config, "hidden_act", "silu") != "silu", "an activation other than silu"),
            (rope != "default", f"rotations of kind {rope}"),
        )
        if is_odd
    ]
    if odd:
        raise ConfigError(
            f"the model has {' and '.join(odd)}; GGUF is written for models of architecture "
            f"{ARCHITECTURE}, without biases, with silu and plain rotary positions",
            "export with --format safetensors, and convert that with llama.cpp's own converter",
        )


def weight_kinds(model: PreTrainedModel, form: Format) -> dict[str, GGMLQuantizationType]:
    """The kind in which each weight is stored, by its name in transformers.

    Raises:
        ConfigError: a row can't be cut into whole blocks.
    """
    chosen, _ = _KINDS[form]
    kinds = {}
    for name, weight in weights(model).items():
        kind = chosen
        if weight.dim() == 1:
            kind = GGMLQuantizationType.F32
        elif name in _VOCABULARY and chosen in _FOUR_BITS:
            kind = GGMLQuantizationType.Q8_0
        if kind not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            _check_row(name, weight, form)
        kinds[name] = kind
    return kinds


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that a file holds, by their names in transformers."""
    config = model.config
    state = model.state_dict()
    names = tensor_names(config.num_hidden_layers, tied=config.tie_word_embeddings)
    return {name: state[name] for name in names}


def as_stored(weight: Tensor, kind: GGMLQuantizationType) -> NDArray[Any]:
    """A weight as its kind stores it: numbers, or bytes in blocks.

    Raises:
        ConfigError: float16 can't hold it.
    """
    values = weight.detach().to("cpu", torch.float32).contiguous().numpy()
    if kind == GGMLQuantizationType.F16 and np.abs(values).max() > np.finfo(np.float16).max:
        raise ConfigError(
            f"a weight of {np.abs(values).max():.0f} is too large for float16, which ends at "
            f"{np.finfo(np.float16).max:.0f}",
            "export with --format safetensors or gguf-q8_0",
        )
    stored: NDArray[Any] = quantize(values, kind)
    return stored


def _check_row(name: str, weight: Tensor, form: Format) -> None:
    if weight.shape[-1] % _BLOCK:
        raise ConfigError(
            f"the rows of {name} hold {weight.shape[-1]} weights; {form} needs a multiple of "
            f"{_BLOCK}, so many share a scale",
            "export with --format gguf-f16",
        )


def _describe(writer: GGUFWriter, description: Description, form: Format) -> None:
    writer.add_type(GGUFType.MODEL)
    writer.add_name(description.name)
    writer.add_license(description.license)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, description.base)
    writer.add_file_type(_KINDS[form][1])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _add_shape(writer: GGUFWriter, config: PretrainedConfig) -> None:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _write_tensors(
    writer: GGUFWriter, model: PreTrainedModel, kinds: Mapping[str, GGMLQuantizationType]
) -> None:
    """Write header and tensors; one tensor at a time is held in its new form."""
    config = model.config
    names = tensor_names(config.num_hidden_layers, tied=config.tie_word_embeddings)
    held = weights(model)
    for ours, kind in kinds.items():
        shape = tuple(held[ours].shape)
        size = int(np.prod(quant_shape_to_byte_shape(shape, kind)))
        writer.add_tensor_info(names[ours], shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for ours, kind in kinds.items():
        heads = rotated_heads(ours, config.to_dict())
        weight = to_pairs(held[ours], heads) if heads else held[ours]
        writer.write_tensor_data(as_stored(weight, kind))
    writer.close()
