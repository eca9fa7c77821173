"""The memory that a training will take, told before it begins."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tasks.models.memory import free_bytes, held_bytes
from tasks.stage.errors import ConfigError
from tasks.training.steps import Part, SummedLoss

LOGGER = logging.getLogger(__name__)


# AdamW's, beside the gradient.
_MOMENTS = 2


_PROBES = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes that a training will hold at its peak, by what holds them.

    `held` is what the process has already, weights and libraries included.
    """

    held: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Return all of them."""
        return self.held + self.optimizer + self.activations

    @property
    def growth(self) -> int:
        """Return what is still to be asked for."""
        return self.total - self.held


def estimate_memory(
    model: nn.Module, packs: Sequence[Part], loss: SummedLoss, device: torch.device
) -> MemoryEstimate:
    """Return what training on these packs will hold, by trying the smallest of them.

    What autograd keeps for the backward pass is counted in a few small packs and taken to grow
    with a pack's tokens and its supervised tokens, which it does with attention that keeps no
    matrix of scores. The gradient of the logits is as large as the logits.
    """
    # On CUDA the moments are float32, elsewhere in the weights' own dtype.
    optimizer = sum(
        weight.numel()
        * (weight.element_size() + _MOMENTS * (4 if weight.is_cuda else weight.element_size()))
        for weight in model.parameters()
        if weight.requires_grad
    )
    sizes = {(pack.tokens, len(pack.targets)): pack for pack in packs}
    probes = [sizes[size] for size in sorted(sizes)[:_PROBES]]
    rows = np.array([(pack.tokens, len(pack.targets)) for pack in probes], np.float64)
    kept = np.array([_kept_bytes(model, pack, loss, device) for pack in probes], np.float64)
    slopes = np.linalg.lstsq(rows, kept, rcond=None)[0]
    most = max(float(np.dot(size, slopes)) for size in sizes)
    return MemoryEstimate(held_bytes(device), optimizer, max(int(most), int(kept.max())))


def require_memory(
    estimate: MemoryEstimate, device: torch.device, *, activations_remedy: str
) -> None:
    """Log an estimate, and refuse a training that will not fit.

    `activations_remedy` is what people can do where activations take most.

    Raises:
        ConfigError: the device has less left than the training will ask for.
    """
    free = free_bytes(device)
    parts = (
        f"{estimate.total / 1e9:.2f} GB at its peak: {estimate.held / 1e9:.2f} held already, "
        f"{estimate.optimizer / 1e9:.2f} for gradients and optimizer, "
        f"{estimate.activations / 1e9:.2f} for activations"
    )
    if estimate.growth > free:
        remedy = (
            activations_remedy
            if estimate.activations > estimate.optimizer
            else "train fewer weights: a lower rank, fewer targets, or an adapter instead of full"
        )
        raise ConfigError(
            f"this training would take {parts}; {free / 1e9:.2f} GB are left on {device}", remedy
        )
    LOGGER.info("this training will take about %s", parts)


def _kept_bytes(model: nn.Module, pack: Part, loss: SummedLoss, device: torch.device) -> int:
    """Return the bytes that autograd keeps for a pack's backward pass, and its logits' gradient."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    # Held without their graphs: a tensor that its own node saves would keep that node for ever.
    held: dict[int, Tensor] = {}

    def keep(saved: Tensor) -> None:
        place = saved.untyped_storage().data_ptr()
        if place not in weights:
            held[place] = saved.detach()

    def give_back(_: Any) -> Tensor:
        raise RuntimeError("what is only counted has no backward pass")

    model.train()
    with torch.random.fork_rng(), saved_tensors_hooks(keep, give_back):
        loss(model, pack.to(device))
    sizes = [tensor.untyped_storage().nbytes() for tensor in held.values()]
    return sum(sizes) + max(sizes, default=0)
