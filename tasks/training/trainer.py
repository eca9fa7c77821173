"""transformers' Trainer, taught packs: its step, its evaluation, its curves."""

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tasks.models.memory import peak_bytes
from tasks.stage.errors import DataError
from tasks.stage.metrics import Curves
from tasks.training.accumulation import Accumulation
from tasks.training.batches import epoch_order
from tasks.training.checkpoints import STATE_FILE, seal_checkpoint
from tasks.training.params import LoopParams
from tasks.training.steps import Batch, SummedLoss

LOGGER = logging.getLogger(__name__)
_PACKS_FILE = "packs.json"


def training_arguments(
    params: LoopParams, folder: Path, total_steps: int, device: torch.device
) -> TrainingArguments:
    """Return what the Trainer needs, from our params; one device, however many there are."""
    interval = math.ceil(total_steps / params.evaluations)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=1,
        learning_rate=float(params.learning_rate),
        lr_scheduler_type=params.schedule,
        warmup_steps=math.ceil(params.warmup_share * total_steps),
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_gradient_norm,
        # The paged one is AdamW whose moments move to the host's memory under pressure.
        optim="paged_adamw_32bit" if device.type == "cuda" else "adamw_torch_fused",
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=interval,
        save_steps=interval,
        save_total_limit=None,  # seal_checkpoint takes the old ones away
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=params.seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=False,
        restore_callback_states_from_checkpoint=True,  # how long there was no gain
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # more would mean torch's DataParallel
    return arguments


def validation_loss(model: nn.Module, batches: Sequence[Batch], loss: SummedLoss) -> float:
    """Return the mean loss per supervised token, in nats."""
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


class _EpochOrder(Sampler[int]):
    """The order of the batches, which (seed, epoch) decide and so a resumed epoch repeats."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self._count, self._seed, self._epoch))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the Trainer calls it before each one, and with the one a resume is in."""
        self._epoch = epoch


class _EarlyStop(EarlyStoppingCallback):
    """transformers' own, for checkpoints that may have moved with their folder."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Find the best checkpoint where the others are."""
        super().on_train_begin(args, state, control, **rest)  # type: ignore[no-untyped-call]
        _find_best(args, state)


def _find_best(args: TrainingArguments, state: TrainerState) -> None:
    if state.best_global_step:
        best = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
        state.best_model_checkpoint = str(best)


def _only(items: Sequence[dict[str, Batch]]) -> dict[str, Batch]:
    [item] = items
    return item


class PackedTrainer(Trainer):
    """The Trainer, with a step and an evaluation that know packs."""

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        batches: Sequence[Batch],
        validation: Sequence[Batch],
        loss: SummedLoss,
        params: LoopParams,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=_Batches(batches),
            eval_dataset=_Batches(validation),
            data_collator=_only,
            callbacks=[_EarlyStop(early_stopping_patience=params.patience)],
        )
        self._batches = batches
        self._validation = validation
        self._loss = loss
        self._most_loss = math.inf
        self._accumulation = Accumulation(loss, batches, arguments.device)

    def halt_above(self, loss: float) -> None:
        """Halt where a batch's loss is above this."""
        self._most_loss = loss

    def _get_train_sampler(self, train_dataset: Any = None) -> _EpochOrder:
        return _EpochOrder(len(self._batches), self.args.seed)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the mean loss of a batch, its gradients added pack by pack."""
        model.train()
        return self._accumulation.add(
            model,
            inputs["batch"],
            step=self.state.global_step + 1,
            check=self._check,
            backward=self.accelerator.backward,
        )

    def _check(self, loss: float) -> None:
        """Halt on a loss with which no step should be taken."""
        if not math.isfinite(loss) or loss > self._most_loss:
            raise DataError(
                f"the training loss is {loss:.4g} at step {self.state.global_step + 1}; expected a "
                f"finite number up to {self._most_loss:.4g} (max_loss_growth times the validation "
                "loss before training). No step was taken with it",
                "lower learning_rate, or look for broken rows; the last checkpoint is kept",
            )

    def _clip_grad_norm(self, model: Any) -> Any:
        """Return the gradients' norm before they are clipped.

        Raises:
            DataError: it is not finite; no step is taken.
        """
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if not math.isfinite(norm):
            raise DataError(
                f"the gradient's norm is {float(norm)} at step {self.state.global_step + 1}, with "
                "a finite loss; no step was taken with it",
                "lower learning_rate, or train in float32; the last checkpoint is kept",
            )
        return norm

    def take_best(self, checkpoint: Path) -> None:
        """Take the best weights of a training that was over when this checkpoint was written."""
        self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        _find_best(self.args, self.state)
        self._load_best_model()

    def recall(self, checkpoint: Path) -> None:
        """Take up what a checkpoint's training had learned of the device's memory."""
        text = (checkpoint / _PACKS_FILE).read_text(encoding="utf-8")
        self._accumulation.max_tokens = json.loads(text)["max_tokens"]

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Write a checkpoint that is known to be whole, and drop those that are not needed."""
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir))
        packs = json.dumps({"max_tokens": self._accumulation.max_tokens})
        (folder / f"checkpoint-{self.state.global_step}" / _PACKS_FILE).write_text(packs)
        seal_checkpoint(
            folder,
            self.state.global_step,
            best_step=self.state.best_global_step,
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the validation loss, under the Trainer's name for it."""
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
        epoch, place = divmod(state.global_step - 1, len(self._batches))
        batch = self._batches[epoch_order(len(self._batches), args.seed, epoch)[place]]
        seconds = time.perf_counter() - (self._started or 0.0)
        self._curves.append(
            state.global_step, "tokens_per_second", batch.tokens / seconds, "tokens/s"
        )
        megabytes = peak_bytes(args.device) / 1e6
        self._curves.append(state.global_step, "memory", megabytes, "MB")
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
