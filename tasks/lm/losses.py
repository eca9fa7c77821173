"""Losses over a pack's supervised positions, as sums in nats."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasks.lm.packing import Pack, packed_logits

# The loss of a model on a pack, summed over its supervised tokens, in nats; a scalar.
SummedLoss = Callable[[nn.Module, Pack], Tensor]


def example_losses(model: nn.Module, pack: Pack) -> list[float]:
    """The negative log-likelihood of each example's targets, in nats, in the pack's order."""
    losses = cross_entropy(packed_logits(model, pack).float(), pack.targets, reduction="none")
    return [float(part.double().sum()) for part in losses.split(pack.supervised)]


def summed_cross_entropy(model: nn.Module, pack: Pack) -> Tensor:
    """The summed negative log-likelihood of a pack's targets, in nats; a scalar."""
    return cross_entropy(packed_logits(model, pack).float(), pack.targets, reduction="sum")
