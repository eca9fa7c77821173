"""Whether packs are exact with a model, found out by trying; where not, no pack holds two examples.

A pack is exact where nothing but attention carries something from one token to the next: layers
that recur or convolve over tokens, and models that do not let attention be replaced, would mix
examples. The rule is the trial itself: two examples with a common beginning, packed and alone, must
give the same logits, at every place, to three hundredths of their spread. The trial is of short
examples; where a model treats long ones otherwise and some are that long, none is packed.
"""

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.sequences.attention import attends_by_packs, use_packed_attention
from tasks.sequences.examples import Example
from tasks.sequences.packing import Batch, build_pack, packed_logits

LOGGER = logging.getLogger(__name__)
# A mix is of the order of the spread; bfloat16 and int8 layers round to about a hundredth of it.
TOLERANCE = 0.03
_SHARED, _OWN = 24, 12


def prepare_packs(model: PreTrainedModel, *groups: Sequence[Batch]) -> list[list[Batch]]:
    """Return the batches as they can be computed exactly with a model, which is set to attend so.

    Where packs are not exact, the log says it and each example gets a pack of its own.
    """
    longest = max(
        (len(item.token_ids) for group in groups for batch in group for item in batch.examples),
        default=0,
    )
    alike = alike_up_to(model)
    if longest <= alike and packs_exactly(model):
        return [list(group) for group in groups]
    why = "it would mix examples that are packed together"
    if longest > alike:
        why = f"of {longest} tokens, it treats those over {alike:.0f} otherwise"
    LOGGER.warning(
        "%s computes each example alone, which is exact and slower: %s", type(model).__name__, why
    )
    return [[batch.repacked(1) for batch in group] for group in groups]


def packs_exactly(model: PreTrainedModel) -> bool:
    """Return whether a pack gives the logits of its examples alone; the model attends by packs
    then.

    A model that does not keeps its own attention; one that does already was tried before, or is
    made of the layers of one that was.
    """
    if attends_by_packs(model):
        return True
    own = model.config._attn_implementation  # no public name says it
    examples = _examples(model.config.get_text_config().vocab_size)
    training = model.training
    model.eval()
    with torch.no_grad():
        alone = torch.cat([_alone(model, example) for example in examples])
        try:
            use_packed_attention(model)
            if not attends_by_packs(model):
                raise ValueError("its attention can't be replaced")
            packed = packed_logits(model, build_pack(examples).to(model.device))
            apart = (packed - alone).float().square().mean(1).sqrt()
            exact = bool(apart.max() <= TOLERANCE * alone.float().std())
        except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
            LOGGER.warning("packs cannot be computed: %s: %s", type(error).__name__, error)
            exact = False
    if not exact:
        model.set_attn_implementation(own)
    model.train(training)
    return exact


def alike_up_to(model: PreTrainedModel) -> float:
    """Return the tokens up to which a model treats all lengths alike.

    Attention in chunks is not ours, nor a window that a model puts into its mask alone; the angles
    of some position embeddings depend on the longest example at hand, which in a pack would be
    another's.
    """
    config: Any = model.config.get_text_config()
    chunk = getattr(config, "attention_chunk_size", None) or math.inf
    window = getattr(config, "sliding_window", None)
    if window is not None and not _hands_its_window_on(model):
        chunk = min(chunk, window)
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given, *(item for item in given.values() if isinstance(item, dict))]
    depending = [item for item in kinds if item.get("rope_type") in ("longrope", "dynamic")]
    own = [
        item.get("original_max_position_embeddings") or config.max_position_embeddings
        for item in depending
    ]
    return float(min(chunk, *own)) if own else float(chunk)


def _hands_its_window_on(model: PreTrainedModel) -> bool:
    """Return whether a model's attention layers tell the attention function about their window."""
    layers = [module for name, module in model.named_modules() if name.endswith("attn")]
    return all("sliding_window" in inspect.getsource(type(layer).forward) for layer in layers)


def _examples(vocabulary: int) -> list[Example]:
    """Return two examples with a common beginning, out of tokens that any model has."""
    draw = torch.Generator().manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=draw).tolist())

    shared = tokens(_SHARED)
    # All own tokens are compared: what convolves mixes only the first of them.
    return [
        Example(str(place), "", "", "", "", shared + tokens(_OWN), _SHARED) for place in range(2)
    ]


def _alone(model: PreTrainedModel, example: Example) -> Tensor:
    ids = torch.tensor([example.token_ids], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[0, example.prompt_length - 1 : -1]
