"""A learning rate found by trying: the range test."""

import logging
import math
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import nn

from tasks.lm.batches import Batch
from tasks.lm.losses import SummedLoss

LOGGER = logging.getLogger(__name__)
_LOWEST, _HIGHEST, _STEPS = 1e-6, 1e-1, 30
_SMOOTHING = 0.8  # share of the running loss that a step keeps
_DIVERGED = 2.0  # times the best loss
_MARGIN = 10.0  # how far below the rate of the best loss to go


def find_rate(model: nn.Module, batches: Sequence[Batch], loss: SummedLoss) -> float:
    """A learning rate a tenth of that at which the loss was lowest; the weights stay as they are.

    The rate rises by the same factor with each step until the loss diverges. Source: Smith 2017,
    arXiv:1506.01186, section 3.3; the tenth is the usual reading of its curve.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in trained]
    optimizer = torch.optim.AdamW(trained, lr=_LOWEST, weight_decay=0.0)
    factor = (_HIGHEST / _LOWEST) ** (1 / (_STEPS - 1))
    running, best, chosen, rate = 0.0, math.inf, _LOWEST, _LOWEST
    model.train()
    with torch.random.fork_rng():
        for step, batch in enumerate(islice(cycle(batches), _STEPS), start=1):
            optimizer.param_groups[0]["lr"] = rate
            found = _step(model, batch, loss, optimizer)
            running = _SMOOTHING * running + (1 - _SMOOTHING) * found
            smooth = running / (1 - _SMOOTHING**step)
            if not math.isfinite(found) or smooth > _DIVERGED * best:
                break
            if smooth < best:
                best, chosen = smooth, rate
            rate *= factor
    with torch.no_grad():
        for weight, kept in zip(trained, before, strict=True):
            weight.copy_(kept)
    LOGGER.info("learning rate %.2e, a tenth of that at the lowest loss, %.3f", chosen / 10, best)
    return chosen / _MARGIN


def _step(
    model: nn.Module, batch: Batch, loss: SummedLoss, optimizer: torch.optim.Optimizer
) -> float:
    """The mean loss of a batch, with which one step is taken."""
    device = next(model.parameters()).device
    total = 0.0
    for pack in batch.packs:
        share = loss(model, pack.to(device)) / batch.supervised
        share.backward()
        total += share.item()
    if math.isfinite(total):
        optimizer.step()
    optimizer.zero_grad()
    return total
