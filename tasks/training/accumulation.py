"""The gradients of a batch, added up pack by pack in packs that the device can hold."""

import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tasks.stage.errors import DeviceError
from tasks.training.steps import Batch, SummedLoss

LOGGER = logging.getLogger(__name__)


class Accumulation:
    """Adds a batch's gradients up; where memory runs out, packs are halved from there on.

    A batch stays whole whatever its packs: one step, of the mean over its supervised tokens.
    `max_tokens` is what a pack may hold from here on.
    """

    def __init__(self, loss: SummedLoss, batches: Sequence[Batch], device: torch.device) -> None:
        self._loss = loss
        self._device = device
        self.max_tokens = max(batch.largest_pack for batch in batches)

    def add(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        step: int,
        check: Callable[[float], None],
        backward: Callable[[Tensor], None] = torch.Tensor.backward,
    ) -> Tensor:
        """Return the mean loss of a batch, in nats; the gradients are added to those of the
        weights.

        `check` sees the loss of each pack, and of them all, and may refuse it.

        Raises:
            DeviceError: a single example does not fit into the device's memory.
        """
        while True:
            fits = batch.largest_pack <= self.max_tokens
            whole = batch if fits else batch.repacked(self.max_tokens)
            try:
                return self._add(model, whole, check, backward)
            except torch.OutOfMemoryError as error:
                model.zero_grad()
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                self._halve(whole, step, error)

    def _add(
        self,
        model: nn.Module,
        batch: Batch,
        check: Callable[[float], None],
        backward: Callable[[Tensor], None],
    ) -> Tensor:
        total = torch.zeros((), device=self._device)
        for pack in batch.packs:
            loss = self._loss(model, pack.to(self._device)) / batch.supervised
            check(loss.item())
            backward(loss)
            total += loss.detach()
        check(total.item())
        return total

    def _halve(self, batch: Batch, step: int, error: BaseException) -> None:
        """Let packs hold half as many tokens from here on.

        Raises:
            DeviceError: they hold a single example each, or one is all that would be left.
        """
        longest = batch.longest_example
        alone = all(pack.examples == 1 for pack in batch.packs)
        most = min(self.max_tokens, batch.largest_pack)
        if alone or most <= longest:
            raise DeviceError(
                f"an example of {longest} tokens does not fit into the device's memory at step "
                f"{step}: {error}",
                batch.example_remedy,
            ) from error
        self.max_tokens = max(math.ceil(most / 2), longest)
        LOGGER.warning(
            "out of memory at step %d: packs of at most %d tokens from here on; the batch stays "
            "%d examples",
            step,
            self.max_tokens,
            len(batch.examples),
        )
