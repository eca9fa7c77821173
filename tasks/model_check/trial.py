"""A small model of the base's architecture trained, served and pruned, as a night does it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.distillation.pruning import (
    block_influence,
    decoder_layers,
    layers_name,
    prune,
    removal_divergence,
)
from tasks.distillation.reconstruction import reconstruct
from tasks.distillation.teacher import StateMemory
from tasks.finetuning.adapter import make_trainable
from tasks.finetuning.params import FinetuningParams
from tasks.generation.batching_check import decodes_together
from tasks.models.loading import LanguageModel, adapted_model, load_model, quantize_folder
from tasks.models.quantization import hold_dequantized, round_weights
from tasks.sequences.attention import use_plain_attention
from tasks.sequences.examples import Example
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import build_pack
from tasks.sequences.packing_check import TOLERANCE, packs_exactly
from tasks.stage.errors import ConfigError, NightloomError

LOGGER = logging.getLogger(__name__)
_CPU = torch.device("cpu")
_PROMPT, _WHOLE = 12, 20


@dataclass(frozen=True)
class Outcome:
    """How a part of the trial went: well, or with what fault."""

    fault: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Trial:
    """How a small model of the architecture did."""

    packs: bool
    decodes_together: bool
    trained: Outcome
    served: Outcome
    pruned: Outcome


def run_trial(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    params: FinetuningParams,
    *,
    numeric_form: str,
    dequantized: bool,
    fits: bool,
    shares: bool,
) -> Trial:
    """Return how the model in a folder, a small one, can be trained, served and pruned.

    `fits`: pruned students are fitted to the teacher's states; `shares`: they are adapters.
    """
    plain = load_model(folder, _CPU)
    together, packs = decodes_together(plain, 64), packs_exactly(load_model(folder, _CPU))
    trained, served = _train_and_serve(folder, tokenizer, params, numeric_form, dequantized)
    pruning = partial(_prune, plain, folder / "student", fits=fits, shares=shares)
    return Trial(packs, together, trained, served, _outcome(pruning))


def _train_and_serve(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    params: FinetuningParams,
    numeric_form: str,
    dequantized: bool,
) -> tuple[Outcome, Outcome]:
    made: list[Tensor] = []

    def train() -> None:
        if numeric_form == "float":
            base = load_model(folder, _CPU)
        else:
            base = quantize_folder(
                folder, numeric_form=numeric_form, compute_dtype=torch.float32, device=_CPU
            )
            if dequantized:
                hold_dequantized(base)
        model = make_trainable(LanguageModel(base, tokenizer, ""), params)
        _one_step(model, base)
        model.save_pretrained(str(folder / "adapter"))
        made.append(_logits(model, base))

    def serve() -> None:
        base = load_model(folder, _CPU)
        if numeric_form != "float":
            round_weights(base, numeric_form)
        model: Any = base
        if params.method != "full":
            model = adapted_model(base, folder / "adapter").merge_and_unload()
        else:
            model = load_model(folder / "adapter", _CPU)
        apart = (_logits(model, base) - made[0]).square().mean().sqrt()
        spread = made[0].std()
        if not bool(apart <= TOLERANCE * spread):
            raise ValueError(
                f"its logits are {float(apart / spread):.0%} of their spread from those in training"
            )

    trained = _outcome(train)
    return trained, Outcome("it could not be trained") if trained.fault else _outcome(serve)


def _one_step(model: Any, base: PreTrainedModel) -> None:
    """Take one step of training that makes a difference to what the model says."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=draw))
    exact = packs_exactly(base)
    examples = [_example(base, draw) for _ in range(2 if exact else 1)]
    loss = summed_cross_entropy(model.train(), build_pack(examples))
    loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    if not gradients:
        raise ValueError("nothing of it is trained")
    if any(one is None or not torch.isfinite(one).all() for one in gradients):
        missing = sum(one is None for one in gradients)
        raise ValueError(
            f"{missing} of {len(gradients)} trained weights get no gradient, or it is not finite"
        )
    if exact:
        use_plain_attention(base)


def _example(model: PreTrainedModel, draw: torch.Generator) -> Example:
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (_WHOLE,), generator=draw).tolist()
    return Example(str(ids), "", "", "", "", tuple(ids), _PROMPT)


@torch.inference_mode()
def _logits(model: Any, base: PreTrainedModel) -> Tensor:
    model.eval()
    vocabulary = base.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(vocabulary, (1, _WHOLE), generator=draw)
    found: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return found


def _prune(model: PreTrainedModel, folder: Path, *, fits: bool, shares: bool) -> None:
    """Make a student of the last layer alone, as distillation does, and read it back."""
    layers, draw = decoder_layers(model), torch.Generator().manual_seed(4)
    if shares and layers_name(model) != "layers":
        raise ConfigError(
            f"{type(model).__name__} calls its layers {layers_name(model)!r}, and an adapter over "
            "some of them alone needs the name 'layers'",
            "set distillation.weights: full",
        )
    exact = packs_exactly(model)
    packs = [build_pack([_example(model, draw) for _ in range(2 if exact else 1)])]
    removal_divergence(model, packs)
    block_influence(model, packs)
    kept = [len(layers) - 1]
    student = prune(model, kept)
    if fits:
        reconstruct(model, student, kept, packs, StateMemory())
    use_plain_attention(student)
    student.save_pretrained(folder)
    try:
        read = load_model(folder, _CPU)
    except ConfigError as error:
        raise ValueError(f"with fewer layers, it can't be read back: {error.message}") from None
    ids = torch.tensor([_example(model, draw).token_ids])
    with torch.inference_mode():
        one, other = (held(input_ids=ids, use_cache=True).logits for held in (student, read))
    if not torch.isfinite(one).all() or not torch.allclose(one, other, atol=1e-3):
        raise ValueError("with fewer layers, it reads back as another model")


def _outcome(part: Callable[[], None]) -> Outcome:
    """Return how a part went; what a library raises there is what a night would meet."""
    try:
        part()
    except NightloomError as error:
        return Outcome(error.message, error.remedy)
    except (ValueError, RuntimeError, TypeError, AttributeError, KeyError, NotImplementedError,
            IndexError, AssertionError, ImportError) as error:  # fmt: skip
        LOGGER.debug("the trial failed", exc_info=True)
        return Outcome(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Outcome()
