"""What was written, read back by transformers' own loaders: weights, logits, vocabulary.

The writer's own idea of the format is no evidence, so nothing of it is used here but the rounding
that a form is defined by.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import dequantize
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tasks.export.formats import Format
from tasks.export.gguf_writing import as_stored, weight_kinds, weights
from tasks.models.loading import LanguageModel
from tasks.stage.errors import GateError

Prompts = Sequence[Sequence[int]]
_LAST = 16  # places of each prompt whose logits are compared
# Shares of the logits' spread. The same weights in the same form give the same logits up to the
# order of sums; float16 keeps 11 bits, whose rounding adds up over the layers.
_SAME, _HALF = 1e-4, 2e-2


@dataclass(frozen=True)
class ReadBack:
    """How far the logits of what was read back are from the model's, in shares of their spread.

    `to_form` is to the model with its weights rounded to the form, `to_float` to the model itself;
    both are the largest difference of any logit. `agreeing` is the share of places at which the
    likeliest token is the model's.
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
    _check_tokenizer(folder, AutoTokenizer.from_pretrained(folder), known, own_template=True)
    expected = _logits(language_model.model, prompts)
    found = _compare(_logits(loaded, prompts), expected, expected)
    _check(
        found.to_form == 0, folder, f"logits differ by up to {found.to_form:.2g} of their spread"
    )
    return found


def read_back_gguf(
    path: Path, language_model: LanguageModel, form: Format, prompts: Prompts
) -> ReadBack:
    """Return how a GGUF file compares with the model, whose weights are then rounded to the form.

    Raises:
        GateError: a weight is not the rounded one, logits are not those of the rounded model or
            those of float16 too far from the model's, or another vocabulary.
    """
    model = language_model.model
    exact = _logits(model, prompts)
    round_to_form(model, form)
    settings = GgufConfig(gguf_file=path.name, dequantize=True)
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=settings
    ).eval()
    read = weights(loaded)
    odd = [name for name, one in weights(model).items() if not torch.equal(read[name], one.cpu())]
    _check(not odd, path, f"{len(odd)} weights differ from the rounded ones: {', '.join(odd[:3])}")
    rounded = _logits(model, prompts)
    found = _compare(_logits(loaded, prompts), rounded, exact)
    _check(
        found.to_form <= _SAME, path, f"logits differ by up to {found.to_form:.2g} of their spread"
    )
    is_far = form is Format.gguf_f16 and found.to_float > _HALF
    _check(not is_far, path, f"float16 moved logits by up to {found.to_float:.2g} of their spread")
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    _check_tokenizer(path, tokenizer, language_model.tokenizer, own_template=False)
    return found


@torch.no_grad()
def round_to_form(model: PreTrainedModel, form: Format) -> None:
    """Round a model's weights, in place, to what a GGUF form can hold."""
    kinds = weight_kinds(model, form)
    for name, weight in weights(model).items():
        stored = dequantize(as_stored(weight, kinds[name]), kinds[name])
        weight.copy_(torch.from_numpy(stored).view(weight.shape))


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
    where: Path,
    found: PreTrainedTokenizerBase,
    known: PreTrainedTokenizerBase,
    *,
    own_template: bool,
) -> None:
    """Check vocabulary, merges, special tokens and chat template.

    How text is cut before merging is not among them: of a GGUF file, transformers reads it only for
    some names (`vocabulary`).
    """
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
            f"{path.name}, read back by transformers, is not the model that was written: {what}. "
            "It is not kept, since it would answer otherwise than what was scored",
            "report it with the versions of transformers and gguf",
        )
