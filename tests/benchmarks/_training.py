"""The seconds of optimizer steps, ours and those of a Trainer of transformers or TRL."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tasks.sequences.packing import Batch
from tasks.stage.metrics import read_curve
from tasks.training.batches import epoch_order


def step_seconds(scratch: Path, batches: Sequence[Batch], *, seed: int) -> float:
    """The seconds of all optimizer steps of a training of ours whose curves lie in `scratch`."""
    seconds = 0.0
    for step, speed in read_curve(scratch, "tokens_per_second"):
        epoch, place = divmod(step - 1, len(batches))
        batch = batches[epoch_order(len(batches), seed, epoch)[place]]
        seconds += batch.tokens / speed
    return seconds


class Clock(TrainerCallback):
    """Adds up the seconds of the optimizer steps of a Trainer."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it, once the device has done its work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._begun


def warm_up(trainer: Any, model: Any) -> None:
    """One pass over one example: ours has had some when its first step begins."""
    inputs = trainer.data_collator([trainer.train_dataset[0]])
    device = next(model.parameters()).device
    prepared = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    model.train()
    with trainer.compute_loss_context_manager():
        trainer.compute_loss(model, prepared).backward()
    model.zero_grad()
