"""A learning rate found by trying: the range test."""

import logging
import math
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import nn

from tasks.stage.errors import ConfigError
from tasks.training.accumulation import Accumulation
from tasks.training.steps import Batch, SummedLoss

LOGGER = logging.getLogger(__name__)
_LOWEST, _HIGHEST, _STEPS = 1e-6, 1e-1, 30
# Few and again the same ones: a rate is not to look good because its batch is an easy one.
_BATCHES = 3
_DIVERGED = 2.0  # times the best loss
_MARGIN = 10.0  # how far below the rate of the best loss to go


def find_learning_rate(model: nn.Module, batches: Sequence[Batch], loss: SummedLoss) -> float:
    """Return a learning rate a tenth of that at which the loss was lowest; the weights stay as they
    are.

    The rate rises by the same factor with each step until the loss diverges; the loss at a rate is
    the mean of its last round over the same few batches. Source: Smith 2017, arXiv:1506.01186,
    section 3.3; the tenth is the usual reading of its curve.

    Raises:
        ConfigError: no rate lowers the loss.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in trained]
    model.train()
    with torch.random.fork_rng():
        rates, losses = _losses_by_rate(model, trained, batches[:_BATCHES], loss)
    with torch.no_grad():
        for weight, kept in zip(trained, before, strict=True):
            weight.copy_(kept)
    best = min(range(len(losses)), key=losses.__getitem__, default=0)
    if best == 0:
        raise ConfigError(
            f"the range test found no learning rate from {_LOWEST:g} to {_HIGHEST:g} that lowers "
            "the loss",
            "set learning_rate to a number, or look for what there is to learn in the examples",
        )
    chosen = rates[best] / _MARGIN
    LOGGER.info(
        "learning rate %.2e, 1/%g of that at the lowest loss, %.3f", chosen, _MARGIN, losses[best]
    )
    return chosen


def _losses_by_rate(
    model: nn.Module, trained: list[nn.Parameter], batches: Sequence[Batch], loss: SummedLoss
) -> tuple[list[float], list[float]]:
    """Return the rates tried and the loss at each, a mean over the last round of batches."""
    optimizer = torch.optim.AdamW(trained, lr=_LOWEST, weight_decay=0.0)
    accumulation = Accumulation(loss, batches, trained[0].device)
    factor = (_HIGHEST / _LOWEST) ** (1 / (_STEPS - 1))
    found: list[float] = []
    rates: list[float] = []
    losses: list[float] = []
    for step, batch in enumerate(islice(cycle(batches), _STEPS)):
        rate = _LOWEST * factor**step
        optimizer.param_groups[0]["lr"] = rate
        found.append(accumulation.add(model, batch, step=step + 1, check=_accept).item())
        if not math.isfinite(found[-1]):
            break
        optimizer.step()
        optimizer.zero_grad()
        if len(found) < len(batches):
            continue
        rates.append(rate)
        losses.append(sum(found[-len(batches) :]) / len(batches))
        if losses[-1] > _DIVERGED * min(losses):
            break
    optimizer.zero_grad()
    return rates, losses


def _accept(loss: float) -> None:
    """Accept any loss: one that is lost ends the test."""
