"""What the training loop needs of a batch, whatever its examples are.

Packs of token sequences are one such kind (`tasks.sequences.packing`)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Part(Protocol):
    """What goes through the model at once; `targets` has one number a thing that is learned."""

    @property
    def tokens(self) -> int:
        """Return how many tokens go through the model."""

    @property
    def examples(self) -> int:
        """Return how many examples it holds."""

    @property
    def targets(self) -> Tensor:
        """Return what is learned, (supervised,)."""

    def to(self, device: torch.device) -> "Part":
        """Return the same on a device."""


class Batch(Protocol):
    """The examples that make one optimizer step, and the parts in which they are computed.

    The loss of a step is the sum over its parts, divided by `supervised`.
    """

    @property
    def examples(self) -> Sequence[object]:
        """Return the examples."""

    @property
    def packs(self) -> Sequence[Part]:
        """Return the parts."""

    @property
    def tokens(self) -> int:
        """Return how many tokens the examples hold."""

    @property
    def computed_tokens(self) -> int:
        """Return how many tokens go through the model."""

    @property
    def supervised(self) -> int:
        """Return how many things are learned."""

    @property
    def largest_pack(self) -> int:
        """Return the tokens of the largest part."""

    @property
    def longest_example(self) -> int:
        """Return the tokens of the largest part that is never split."""

    @property
    def example_remedy(self) -> str:
        """Return what people can do where one example alone does not fit into memory."""

    @property
    def activations_remedy(self) -> str:
        """Return what people can do where the largest part would not fit into memory."""

    def repacked(self, max_tokens: int) -> "Batch":
        """Return the same step in parts of at most so many tokens, where it can be split."""


# The loss of a model on a part, summed over what is learned in it, in nats; a scalar.
SummedLoss = Callable[[nn.Module, Any], Tensor]
