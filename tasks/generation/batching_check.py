"""Whether rows decoded together get the tokens of each alone; where not, each is decoded alone.

The rule, in this order: a model whose generation settings change greedy scores in a way that is not
ours to repeat; one that treats rows as long as these otherwise than shorter ones; and one with
which a trial of two prompts, together and alone, gives other logits than its own cache does.
"""

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from tasks.generation.continuous_batching import DecodingBatch, run_pass
from tasks.sequences.packing_check import TOLERANCE, alike_up_to

LOGGER = logging.getLogger(__name__)
# What changes which token is the likeliest or when an answer ends; of all such settings we follow
# eos_token_id and repetition_penalty.
_CHANGING = (
    "num_beams",
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "guidance_scale",
    "watermarking_config",
    "stop_strings",
    "max_time",
    "token_healing",
    "penalty_alpha",
    "dola_layers",
)
_SHARED, _OWN, _STEPS = 24, (9, 5), 3
_TRIED: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def decodes_together(model: PreTrainedModel, longest: int) -> bool:
    """Return whether rows of at most `longest` tokens, answers included, may be decoded together.

    Where they may not, the log says why. A model is tried once.
    """
    why = _objection(model, longest)
    if why:
        LOGGER.warning(
            "%s answers one prompt at a time, which is exact and slow: %s",
            type(model).__name__,
            why,
        )
    return not why


def _objection(model: PreTrainedModel, longest: int) -> str:
    """Return what speaks against decoding rows together, or nothing."""
    changing = _changing(model.generation_config)
    if changing:
        return f"its generation settings set {', '.join(changing)}"
    alike = alike_up_to(model)
    if longest > alike:
        return f"of {longest} tokens, it treats those over {alike:.0f} otherwise"
    if model not in _TRIED:
        _TRIED[model] = _is_exact(model)
    return "" if _TRIED[model] else "together, it gives other logits than alone"


def _changing(settings: GenerationConfig) -> list[str]:
    """Return the settings that change greedy answers in a way that is not ours to repeat."""
    plain = GenerationConfig()
    return [
        name
        for name in _CHANGING
        if getattr(settings, name, None) not in (None, [], 0, 1, getattr(plain, name, None))
    ]


@torch.inference_mode()
def _is_exact(model: PreTrainedModel) -> bool:
    """Return whether two prompts of one beginning get, decoded together, each one's own logits."""
    prompts = _prompts(model.config.get_text_config().vocab_size)
    try:
        together = _together(model, prompts)
        for number, prompt in enumerate(prompts):
            alone = _alone(model, prompt)
            apart = (together[number] - alone).float().square().mean(1).sqrt()
            if not bool(apart.max() <= TOLERANCE * alone.float().std()):
                return False
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
        LOGGER.warning("rows cannot be decoded together: %s: %s", type(error).__name__, error)
        return False
    return True


def _prompts(vocabulary: int) -> list[tuple[int, ...]]:
    """Return two prompts with a common beginning, out of tokens that any model has."""
    draw = torch.Generator().manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=draw).tolist())

    shared = tokens(_SHARED)
    return [shared + tokens(own) for own in _OWN]


def _together(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the logits (steps, vocabulary) of each prompt, which are all fed their own first
    tokens.
    """
    batch = DecodingBatch.start(
        prompts, max_new_tokens=_STEPS, batch_size=len(prompts), device=model.device
    )
    found: list[list[Tensor]] = [[] for _ in prompts]
    while batch.waiting or batch.rows:
        logits = run_pass(model, batch.next_pass())
        for row, own in zip(batch.rows, logits, strict=True):
            found[row.number].append(own)
            row.tokens.append(row.prompt[len(row.tokens)])
            row.is_done = len(row.tokens) == _STEPS
        batch.let_go()
    return [torch.stack(steps) for steps in found]


def _alone(model: PreTrainedModel, prompt: tuple[int, ...]) -> Tensor:
    """Return the logits (steps, vocabulary) by the model's own cache, fed the same tokens."""
    ids = torch.tensor([prompt], device=model.device)
    steps, cache = [], None
    for step in range(_STEPS):
        made = model(input_ids=ids, past_key_values=cache, use_cache=True)
        steps.append(made.logits[0, -1])
        cache, ids = made.past_key_values, ids.new_tensor([[prompt[step]]])
    return torch.stack(steps)
