"""A Llama-shaped model written as a GGUF file, with all that llama.cpp needs to run it.

The tokenizer is written so that llama.cpp makes of a text the very ids that we make."""

import json
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
    TokenType,
    quantize,
)
from gguf.quants import quant_shape_to_byte_shape
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tasks.export.formats import Format
from tasks.models.gguf import ARCHITECTURE, rotated_heads, tensor_names, to_pairs
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import end_of_turn
from tasks.stage.errors import ConfigError

MODEL = "gpt2"  # llama.cpp's name for byte-level BPE

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}

_DIGITS = {"type": "Digits", "individual_digits": True}

# llama.cpp's names of ways to cut a text before merging (llama-vocab.cpp), whether whole words of
# the vocabulary are taken without merging, and how tokenizers writes them down.
_WAYS: dict[str, tuple[bool, list[dict[str, Any]]]] = {
    "gpt-2": (False, [_BYTE_LEVEL]),
    "smollm": (False, [_DIGITS, _BYTE_LEVEL]),
}

_REGEXES = {"llama-bpe": True, "qwen2": False}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their kinds, merges in order, and llama.cpp's name of how text is cut."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    way: str
    adds_bos: bool


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer, filled up to `size`, the rows of the model's embedding.

    Raises:
        ConfigError: llama.cpp has no tokenizer that gives the same ids.
    """
    if not tokenizer.is_fast:
        raise _unsupported(f"a {type(tokenizer).__name__}, which has no tokenizer.json")
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    way = _way(core)
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(size):
        kind = TokenType.NORMAL if number in names else TokenType.UNUSED
        if number in added:
            kind = TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED
        tokens.append(names.get(number, f"[PAD{number}]"))
        kinds.append(int(kind))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in core["model"]["merges"]]
    begun = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return Vocabulary(tuple(tokens), tuple(kinds), tuple(merges), way, begun)


def _way(core: dict[str, Any]) -> str:
    """Return llama.cpp's name of the way in which a tokenizer cuts text."""
    model = core["model"]
    if model["type"] != "BPE" or (core["decoder"] or {}).get("type") != "ByteLevel":
        raise _unsupported(f"{model['type']} over {(core['decoder'] or {}).get('type')}")
    odd = [
        name
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        if model.get(name)
    ]
    if core["normalizer"] is not None or odd:
        raise _unsupported(f"BPE with {', '.join(odd) or 'a normalizer'}")
    steps = core["pre_tokenizer"] or {}
    found = [_bare(step) for step in steps.get("pretokenizers", [steps])]
    whole_words = bool(model.get("ignore_merges"))
    for name, (ignores_merges, expected) in (_WAYS | _split_ways()).items():
        if found == expected and whole_words == ignores_merges:
            return name
    kinds = ", ".join(str(step.get("type")) for step in found)
    raise _unsupported(f"byte-level BPE cut by {kinds} in another way")


def _split_ways() -> dict[str, tuple[bool, list[dict[str, Any]]]]:
    """Return the ways that are one regular expression, as transformers knows them by llama.cpp's
    names.
    """
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    def steps(name: str) -> list[dict[str, Any]]:
        pattern = {"Regex": GGUF_PRE_TOKENIZER_SPLITS[name]}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        return [split, _BYTE_LEVEL | {"use_regex": False}]

    return {name: (whole_words, steps(name)) for name, whole_words in _REGEXES.items()}


def _bare(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step without what changes offsets alone."""
    return {name: value for name, value in step.items() if name != "trim_offsets"}


def _unsupported(found: str) -> ConfigError:
    known = ", ".join([*_WAYS, *_REGEXES])
    return ConfigError(
        f"the model's tokenizer is {found}; GGUF is written for byte-level BPE cut as {known}, "
        "because with another one llama.cpp would read other tokens than the model learned",
        "export with --format safetensors, and convert that with llama.cpp's own converter",
    )


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
        (writer.add_eot_token_id, end_of_turn(tokenizer)),
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
    """Return the kind in which each weight is stored, by its name in transformers.

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
    """Return the weights that a file holds, by their names in transformers."""
    config = model.config
    state = model.state_dict()
    names = tensor_names(config.num_hidden_layers, tied=config.tie_word_embeddings)
    return {name: state[name] for name in names}


def as_stored(weight: Tensor, kind: GGMLQuantizationType) -> NDArray[Any]:
    """Return a weight as its kind stores it: numbers, or bytes in blocks.

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
