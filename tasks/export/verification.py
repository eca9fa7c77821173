"""What was written, read back: safetensors by transformers' own loaders, GGUF by llama.cpp.

The writer's own idea of the format is no evidence: of it nothing is used here but the rounding that
a form is defined by, and in what order llama.cpp has a weight's rows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import dequantize
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict

from tasks.export.families import tensor_names, to_llama_cpp
from tasks.export.formats import Format
from tasks.export.gguf_writing import round_to_form, weight_kinds, weights
from tasks.export.llama_cpp import LlamaCpp
from tasks.generation.greedy_decoding import stop_tokens
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import Turn
from tasks.stage.errors import GateError

Prompts = Sequence[Sequence[int]]
Chats = Sequence[Sequence[Turn]]
_LAST = 16  # places of each prompt whose logits are compared, of a folder of safetensors
_LIKELIEST = 64  # tokens of which llama.cpp tells its scores
# Bounds in shares of the logits' spread. llama.cpp multiplies in float32, in float16, or, where
# weights are quantised, with activations rounded to 8 bits; its GELU is a table in float16.
_BOUNDS = {Format.gguf_f32: 5e-3, Format.gguf_f16: 2e-2}
_QUANTISED = 0.3


@dataclass(frozen=True)
class ReadBack:
    """How far the logits of what was read back are from the model's, in shares of their spread.

    `to_form` is to the model with its weights rounded to the form, `to_float` to the model itself:
    of safetensors the largest difference of any logit, of GGUF the root of the mean square over the
    likeliest tokens after each prompt, their scores taken as log probabilities. `agreeing` is the
    share of places at which the likeliest token is the model's.
    """

    prompts: int
    to_form: float
    to_float: float
    agreeing: float


def read_back_folder(folder: Path, language_model: LanguageModel, prompts: Prompts) -> ReadBack:
    """Return how a folder of safetensors compares with the model that it was written from.

    Raises:
        GateError: it does not give the model's logits, or another tokenizer.
    """
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    known = language_model.tokenizer
    _check_tokenizer(folder, AutoTokenizer.from_pretrained(folder), known)
    expected = _logits(language_model.model, prompts)
    found = _compare(_logits(loaded, prompts), expected, expected)
    _check(
        found.to_form == 0, folder, f"logits differ by up to {found.to_form:.2g} of their spread"
    )
    return found


def read_back_gguf(
    path: Path, language_model: LanguageModel, form: Format, prompts: Prompts, chats: Chats
) -> ReadBack:
    """Return how a GGUF file compares with the model, whose weights are then rounded to the form.

    `chats` are the conversations that the prompts were made of.

    Raises:
        GateError: a weight is not the rounded one, or llama.cpp makes other token ids of a chat,
            does not end an answer where we do, or computes logits too far from the rounded model's.
        DataError: llama.cpp does not load the file.
    """
    model = language_model.model
    exact = _scores(model, prompts)
    round_to_form(model, form)
    odd = _other_weights(path, model, form)
    _check(not odd, path, f"{len(odd)} weights differ from the rounded ones: {', '.join(odd[:3])}")
    context = max(map(len, prompts)) + 1
    threads = torch.get_num_threads()
    asked = LlamaCpp(path, context=context, rows=1, threads=threads, exact=True)
    _check_ids(path, asked, language_model.tokenizer, prompts, chats)
    going_on = [token for token in stop_tokens(language_model) if not asked.ends_at(token)]
    named = language_model.tokenizer.convert_ids_to_tokens(going_on)
    _check(not going_on, path, f"an answer goes on after {', '.join(named)}")
    likeliest = [asked.log_probabilities(prompt, _LIKELIEST) for prompt in prompts]
    rounded = _scores(model, prompts)
    found = ReadBack(
        prompts=len(prompts),
        to_form=_distance(likeliest, rounded),
        to_float=_distance(likeliest, exact),
        agreeing=sum(
            next(iter(found)) == int(known.argmax())
            for found, known in zip(likeliest, exact, strict=True)
        )
        / len(prompts),
    )
    is_near = found.to_form <= _BOUNDS.get(form, _QUANTISED)
    _check(is_near, path, f"logits are off by {found.to_form:.2g} of their spread")
    is_far = form in _BOUNDS and found.to_float > _BOUNDS[form]
    _check(not is_far, path, f"{form} moved logits by {found.to_float:.2g} of their spread")
    return found


def _other_weights(path: Path, model: PreTrainedModel, form: Format) -> list[str]:
    """Return the weights whose numbers in a file are not the model's."""
    stored = load_gguf_state_dict(GgufHeader.from_file(str(path)))
    names, kinds, odd = tensor_names(model), weight_kinds(model, form), []
    for name, weight in weights(model).items():
        expected = to_llama_cpp(name, weight.cpu().float(), model.config).numpy()
        read = dequantize(stored[names[name]][...].numpy(), kinds[name])
        if not np.array_equal(read.reshape(expected.shape), expected):
            odd.append(name)
    return odd


def _check_ids(
    path: Path,
    asked: LlamaCpp,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    chats: Chats,
) -> None:
    """Check that llama.cpp makes of chats, by the template in the file, the ids that we make.

    A text that spells a special token stays text with us alone; it is left out.
    """
    spelled = [str(one) for one in tokenizer.added_tokens_decoder.values() if one.special]
    compared = 0
    for number, (prompt, chat) in enumerate(zip(prompts, chats, strict=True), start=1):
        messages = [{"role": turn.role, "content": "".join(turn.texts)} for turn in chat]
        if any(name in message["content"] for name in spelled for message in messages):
            continue
        compared += 1
        found = asked.tokens(asked.rendered(messages))
        _check(
            found == list(prompt),
            path,
            f"prompt {number} of {len(prompts)} becomes {len(found)} tokens that are not the "
            f"{len(prompt)} recorded",
        )
    _check(compared > 0, path, "each of its chats spells a special token, so none can be compared")


@torch.inference_mode()
def _scores(model: PreTrainedModel, prompts: Prompts) -> list[Tensor]:
    """Return the logits after each prompt."""
    return [places[-1] for places in _logits(model, prompts)]


def _distance(found: Sequence[dict[int, float]], known: Sequence[Tensor]) -> float:
    """Return how far log probabilities are from logits' own, in shares of the logits' spread."""
    apart = [
        (logits.log_softmax(-1)[list(told)] - torch.tensor(list(told.values()))) / logits.std()
        for told, logits in zip(found, known, strict=True)
    ]
    return float(torch.cat(apart).square().mean().sqrt())


@torch.inference_mode()
def _logits(model: PreTrainedModel, prompts: Prompts) -> list[Tensor]:
    """Return the logits of each prompt's last places."""
    device = model.device
    made = (
        model(input_ids=torch.tensor([[*ids]], device=device), use_cache=False) for ids in prompts
    )
    return [one.logits[0, -_LAST:].float().cpu() for one in made]


def _compare(found: Sequence[Tensor], form: Sequence[Tensor], exact: Sequence[Tensor]) -> ReadBack:
    now, rounded, known = (torch.cat(list(part)) for part in (found, form, exact))
    spread = known.std()
    return ReadBack(
        prompts=len(found),
        to_form=float((now - rounded).abs().max() / spread),
        to_float=float((now - known).abs().max() / spread),
        agreeing=float((now.argmax(-1) == known.argmax(-1)).float().mean()),
    )


def _check_tokenizer(
    where: Path, found: PreTrainedTokenizerBase, known: PreTrainedTokenizerBase
) -> None:
    """Check vocabulary, merges, special tokens and chat template."""
    pairs: dict[str, tuple[Any, Any]] = {
        "vocabulary": (found.get_vocab(), known.get_vocab()),
        "merges": (_core(found).get("merges"), _core(known).get("merges")),
        "end token": (found.eos_token_id, known.eos_token_id),
        "chat template": (found.chat_template, known.chat_template),
    }
    odd = [name for name, (one, other) in pairs.items() if one != other]
    _check(not odd, where, f"the tokenizer's {' and '.join(odd)} are others")


def _core(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    core: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return core


def _check(is_right: bool, path: Path, what: str) -> None:
    if not is_right:
        raise GateError(
            f"{path.name}, read back, is not the model that was written: {what}. "
            "It is not kept, since it would answer otherwise than what was scored",
            "report it with the versions of transformers, gguf and xllamacpp",
        )
