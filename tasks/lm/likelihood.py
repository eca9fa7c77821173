"""How likely a model finds given answers and texts: the trainings' packs, without a gradient."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from tasks.lm.batches import Batch, one_batch
from tasks.lm.exactness import prepare_packs
from tasks.lm.examples import Example
from tasks.lm.losses import example_losses
from tasks.stage.errors import DataError


def log_likelihoods(
    model: PreTrainedModel, examples: Sequence[Example], *, max_tokens: int
) -> list[float]:
    """The summed log-probability of each example's learned tokens, in nats, as they come.

    Packs hold at most `max_tokens` tokens, prefixes that examples share once; a longer example has
    one of its own. The model attends as it did before when this returns.

    Raises:
        DataError: one is not finite.
    """
    if not examples:
        return []
    found: dict[str, float] = {}
    with _in_packs(model, one_batch(examples, max_tokens)) as batch, torch.inference_mode():
        for pack in (pack.to(model.device) for pack in batch.packs):
            found |= zip(pack.keys, example_losses(model, pack), strict=True)
    values = [-found[example.key] for example in examples]
    lost = [
        item.id for item, value in zip(examples, values, strict=True) if not math.isfinite(value)
    ]
    if lost:
        raise DataError(
            f"the model gives {len(lost)} of {len(values)} answers a likelihood that is not "
            f"finite, {lost[0]} the first; expected a number for each",
            "look for weights that overflow, or train again at a lower learning rate",
        )
    return values


def perplexity(log_likelihood: float, tokens: int) -> float:
    """The exponential of the mean negative log-likelihood of a token."""
    return math.exp(-log_likelihood / tokens)


@contextmanager
def _in_packs(model: PreTrainedModel, batch: Batch) -> Iterator[Batch]:
    """The batch as it is exact with a model, which attends by packs until the block ends."""
    own = model.config._attn_implementation  # no public name says it
    model.eval()
    try:
        [[exact]] = prepare_packs(model, [batch])
        yield exact
    finally:
        model.set_attn_implementation(own)
