"""A model written as a GGUF file, with all that llama.cpp needs to run it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    dequantize,
    quantize,
)
from gguf.quants import quant_shape_to_byte_shape
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from tasks.export.families import (
    FAMILIES,
    check_architecture,
    describe_shape,
    rotation_factors,
    tensor_names,
    to_llama_cpp,
)
from tasks.export.formats import Format
from tasks.export.vocabulary import read_vocabulary
from tasks.generation.greedy_decoding import stop_tokens
from tasks.models.loading import LanguageModel
from tasks.models.template_binding import bound_settings
from tasks.prompting.chat_encoding import end_of_turn
from tasks.stage.errors import ConfigError

_KINDS = {
    Format.gguf_f32: (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    Format.gguf_f16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    Format.gguf_q8_0: (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    Format.gguf_q4_1: (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    Format.gguf_q4_0: (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}

# The vocabulary, in which 4 bits cost most: llama.cpp too keeps more of it.
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")

_FOUR_BITS = (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1)

# What llama.cpp sets of itself when it renders a chat (common/chat.cpp).
_GIVEN_BY_LLAMA_CPP = ("date_string", "datetime", "enable_thinking", "preserve_thinking")

# Tokens that llama.cpp ends an answer at by their names alone (llama-vocab.cpp).
_KNOWN_STOPS = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "</s>", "<eos>",
)  # fmt: skip

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
        ConfigError: llama.cpp would compute the model otherwise, its rows don't fit the form's
            blocks, a weight is too large for float16, or llama.cpp has no such tokenizer, or can't
            be told where an answer ends.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    check_architecture(model.config)
    vocabulary = read_vocabulary(tokenizer, model.config.vocab_size)
    kinds = weight_kinds(model, form)
    writer = GGUFWriter(path, FAMILIES[model.config.model_type].name)
    _describe(writer, replace(description, name=vocabulary.name_of(description.name)), form)
    describe_shape(writer, model.config)
    vocabulary.describe(writer)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_eot_token_id, end_of_turn(tokenizer)),
        (writer.add_eom_token_id, _third_stop(language_model)),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_chat_template(_template(str(tokenizer.chat_template)))
    _write_tensors(writer, model, kinds)


def _template(template: str) -> str:
    """Return a chat template that renders in llama.cpp as it does in transformers.

    llama.cpp gives each template today's date and other values that nobody named. What a template
    reads of them is undefined again; what params bound is set by the template itself.
    """
    bound = (bound_settings(template) or {}).get("arguments", {})
    read = [
        name
        for name in _GIVEN_BY_LLAMA_CPP
        if name not in bound and re.search(rf"\b{name}\b", template)
    ]
    return "\n".join([*(f"{{% set {name} = undefined %}}" for name in read), template])


def _third_stop(language_model: LanguageModel) -> int | None:
    """Return the token that ends an answer beside those of the tokenizer and of the chat template.

    Raises:
        ConfigError: there are more than one, of which llama.cpp can't be told.
    """
    tokenizer = language_model.tokenizer
    known = {tokenizer.eos_token_id, end_of_turn(tokenizer)}
    stops = sorted(
        number
        for number in stop_tokens(language_model) - known
        if tokenizer.convert_ids_to_tokens(number) not in _KNOWN_STOPS
    )
    if len(stops) > 1:
        named = ", ".join(tokenizer.convert_ids_to_tokens(stops))
        raise ConfigError(
            f"the model's generation settings end an answer at {named} besides what its tokenizer "
            "and its chat template name; llama.cpp can be told of one of them",
            "list the others no more in generation_config.json, or export with --format "
            "safetensors",
        )
    return stops[0] if stops else None


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
    state = model.state_dict()
    return {name: state[name] for name in tensor_names(model)}


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


@torch.no_grad()
def round_to_form(model: PreTrainedModel, form: Format) -> None:
    """Round a model's weights, in place, to what a GGUF form can hold.

    How llama.cpp orders rows changes nothing: each is rounded alone.
    """
    kinds = weight_kinds(model, form)
    for name, weight in weights(model).items():
        stored = dequantize(as_stored(weight, kinds[name]), kinds[name])
        weight.copy_(torch.from_numpy(stored).view(weight.shape))


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


def _write_tensors(
    writer: GGUFWriter, model: PreTrainedModel, kinds: Mapping[str, GGMLQuantizationType]
) -> None:
    """Write header and tensors; one tensor at a time is held in its new form."""
    names, held = tensor_names(model), weights(model)
    factors = rotation_factors(model.config)
    for name, values in factors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for ours, kind in kinds.items():
        shape = tuple(held[ours].shape)
        size = int(np.prod(quant_shape_to_byte_shape(shape, kind)))
        writer.add_tensor_info(names[ours], shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in factors.values():
        writer.write_tensor_data(values)
    for ours, kind in kinds.items():
        weight = to_llama_cpp(ours, held[ours].detach().float(), model.config)
        writer.write_tensor_data(as_stored(weight, kind))
    writer.close()
