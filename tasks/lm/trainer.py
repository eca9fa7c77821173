"""transformers' Trainer, taught packs: its step, its evaluation, its curves."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tasks.lm.batches import Batch
from tasks.lm.packing import Pack
from tasks.lm.params import TrainingParams
from tasks.stage.errors import DataError
from tasks.stage.metrics import Curves

LOGGER = logging.getLogger(__name__)
SummedLoss = Callable[[nn.Module, Pack], Tensor]


def training_arguments(params: TrainingParams, folder: Path, total_steps: int) -> TrainingArguments:
    """What the Trainer needs, from what our params say."""
    interval = math.ceil(total_steps / params.evaluations)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=1,
        learning_rate=params.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(params.warmup_share * total_steps),
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_gradient_norm,
        optim="adamw_torch_fused",
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=interval,
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=params.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )


def validation_loss(model: nn.Module, batches: Sequence[Batch], loss: SummedLoss) -> float:
    """The mean loss per supervised token, in nats."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        total = sum(
            loss(model, pack.to(device)).item() for batch in batches for pack in batch.packs
        )
    return total / sum(batch.supervised for batch in batches)


class _Batches(Dataset[dict[str, Batch]]):
    """Batches as the Trainer wants them: a map from a name to what it passes through."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, Batch]:
        return {"batch": self._batches[index]}


def _only(items: Sequence[dict[str, Batch]]) -> dict[str, Batch]:
    return items[0]


class PackedTrainer(Trainer):
    """The Trainer, with a step and an evaluation that know packs."""

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        batches: Sequence[Batch],
        validation: Sequence[Batch],
        loss: SummedLoss,
        params: TrainingParams,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=_Batches(batches),
            eval_dataset=_Batches(validation),
            data_collator=_only,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=params.patience)],
        )
        self._batches = batches
        self._validation = validation
        self._loss = loss

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        """Batches in their own order, which the seed already decided."""
        return SequentialSampler(self._batches)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The mean loss of a batch, its gradients added pack by pack."""
        batch: Batch = inputs["batch"]
        model.train()
        total = torch.zeros((), device=self.args.device)
        for pack in batch.packs:
            loss = self._loss(model, pack.to(self.args.device)) / batch.supervised
            if not torch.isfinite(loss):
                raise DataError(
                    f"the training loss is {loss.item()} at step {self.state.global_step + 1}; "
                    "no step was taken with it",
                    "lower learning_rate, or look for broken rows; the last checkpoint is kept",
                )
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The validation loss, under the Trainer's name for it."""
        model = cast(nn.Module, self.model)
        metrics = {"eval_loss": validation_loss(model, self._validation, self._loss)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class CurveCallback(TrainerCallback):
    """Writes what the Trainer logs to the stage's curves."""

    _UNITS = (
        ("loss", "loss", "nats"),
        ("eval_loss", "validation_loss", "nats"),
        ("learning_rate", "learning_rate", "1"),
        ("grad_norm", "gradient_norm", "1"),
    )

    def __init__(self, curves: Curves, batches: Sequence[Batch], total_steps: int) -> None:
        self._curves = curves
        self._batches = batches
        self._total_steps = total_steps
        self._started: float | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of a step."""
        self._started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note how fast the step was and how far the training is."""
        batch = self._batches[(state.global_step - 1) % len(self._batches)]
        seconds = time.perf_counter() - (self._started or 0.0)
        self._curves.append(
            state.global_step, "tokens_per_second", batch.tokens / seconds, "tokens/s"
        )
        self._curves.progress(state.global_step, self._total_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Append what was logged."""
        for name, curve, unit in self._UNITS:
            if logs and name in logs:
                self._curves.append(state.global_step, curve, float(logs[name]), unit)
        if logs and "eval_loss" in logs:
            LOGGER.info("step %d: validation loss %.4f", state.global_step, logs["eval_loss"])
        elif logs and "loss" in logs:
            LOGGER.info(
                "step %d of %d: loss %.4f", state.global_step, self._total_steps, logs["loss"]
            )
