"""The one training loop: transformers' Trainer over packed batches, with the loss handed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers.trainer_callback import PrinterCallback

from tasks.records.text import text_sha256
from tasks.stage.errors import DataError
from tasks.stage.metrics import Curves
from tasks.stage.outputs import MANIFEST
from tasks.training.checkpoints import (
    checkpoint_folder,
    checkpoint_step,
    latest_checkpoint,
    remembered,
    remembers,
    was_over,
)
from tasks.training.lr_finder import find_learning_rate
from tasks.training.memory_estimate import estimate_memory, require_memory
from tasks.training.params import LoopParams
from tasks.training.steps import Batch, SummedLoss
from tasks.training.trainer import CurveCallback, PackedTrainer, training_arguments

_RATE, _INITIAL = "learning_rate", "initial_loss"  # what a training remembers from before it began


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to; losses are means per supervised token, in nats.

    `tokens` counts what the examples hold, `computed_tokens` what went through the model: a prefix
    that several examples share is there once.
    """

    steps: int
    examples: int
    tokens: int
    computed_tokens: int
    supervised_tokens: int
    peak_learning_rate: float
    initial_validation_loss: float
    best_validation_loss: float


def train(
    model: nn.Module,
    batches: Sequence[Batch],
    validation: Sequence[Batch],
    loss: SummedLoss,
    params: LoopParams,
    *,
    scratch: Path,
    identity: str,
    series: str = "",
    share: tuple[float, float] = (0.0, 1.0),
    leading: int = 0,
    leading_loss: float = 0.0,
) -> TrainingResult:
    """Train a model in place; it ends with the weights of its best validation loss.

    `loss` gives the sum over a pack's supervised tokens; each step takes the mean over its batch.
    Curves go to `scratch/curves.jsonl` and checkpoints to `scratch/checkpoints/`, from where a
    training with the same `identity` goes on; `drop_checkpoints` when its result is safe. One of
    several trainings of a stage has a `series` of its own, for its curves and checkpoints, and is
    that `share` of the stage.

    The first `leading` batches learn something else than what is validated, of which the loss is
    `leading_loss` before training. They come first in every epoch; no evaluation stops the training
    in the first ones, and the learning rate is found without them.

    Raises:
        DataError: nothing to train or to validate on, or a loss or gradient that is not finite.
        ConfigError: the device has not the memory for it.
        DeviceError: it ran out of memory with a single example.
    """
    _check(model, batches, validation, loss)
    folder = checkpoint_folder(scratch / series, identity)
    checkpoint = latest_checkpoint(folder)
    if params.learning_rate == "find":
        rate = remembered(folder, _RATE, lambda: find_learning_rate(model, batches[leading:], loss))
        params = params.model_copy(update={"learning_rate": rate})
    trainer = _trainer(model, batches, validation, loss, params, folder, leading)
    curves = Curves(
        scratch, series=series, share=share, resume_step=_resume_step(folder, checkpoint)
    )
    total = len(batches) * params.epochs
    trainer.add_callback(CurveCallback(curves, batches, total, leading=leading))
    initial = remembered(folder, _INITIAL, lambda: trainer.evaluate()["eval_loss"])
    trainer.halt_above(params.max_loss_growth * max(initial, leading_loss, 1.0))
    _go_on(trainer, checkpoint)
    return _result(trainer, batches, float(params.learning_rate), initial)


def _go_on(trainer: PackedTrainer, checkpoint: Path | None) -> None:
    """Train from a checkpoint on, from the beginning where there is none."""
    if checkpoint is not None and was_over(checkpoint):
        trainer.take_best(checkpoint)
        return
    if checkpoint is not None:
        trainer.recall(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _result(
    trainer: PackedTrainer, batches: Sequence[Batch], rate: float, initial: float
) -> TrainingResult:
    best = trainer.state.best_metric
    return TrainingResult(
        trainer.state.global_step,
        sum(len(batch.examples) for batch in batches),
        sum(batch.tokens for batch in batches),
        sum(batch.computed_tokens for batch in batches),
        sum(batch.supervised for batch in batches),
        rate,
        initial,
        initial if best is None else best,
    )


def _trainer(
    model: nn.Module,
    batches: Sequence[Batch],
    validation: Sequence[Batch],
    loss: SummedLoss,
    params: LoopParams,
    folder: Path,
    leading: int,
) -> PackedTrainer:
    device = next(model.parameters()).device
    arguments = training_arguments(params, folder, len(batches) * params.epochs, device)
    trainer = PackedTrainer(model, arguments, batches, validation, loss, params, leading=leading)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _resume_step(folder: Path, checkpoint: Path | None) -> int | None:
    """Return the last step whose points of the curves hold, None where none do."""
    if checkpoint is not None:
        return checkpoint_step(checkpoint)
    return 0 if remembers(folder, _INITIAL) else None


def _check(
    model: nn.Module, batches: Sequence[Batch], validation: Sequence[Batch], loss: SummedLoss
) -> None:
    """Check that there is something to learn, and memory to learn it in."""
    if not batches or not validation:
        raise DataError(
            f"{len(batches)} training and {len(validation)} validation batches; expected at least "
            "one of each",
            "take more data in, or raise token_budget, curation.validation_share or "
            "tokenization.max_tokens",
        )
    device = next(model.parameters()).device
    packs = [pack for batch in batches for pack in batch.packs]
    estimate = estimate_memory(model, packs, loss, device)
    require_memory(estimate, device, activations_remedy=batches[0].activations_remedy)


def training_identity(params: LoopParams, base_digest: str, numeric_form: str, tokens: Path) -> str:
    """Return a hash of what a checkpoint must be made with for a training to go on from it."""
    manifest = (tokens / MANIFEST).read_text(encoding="utf-8")
    return text_sha256(params.model_dump_json(), base_digest, numeric_form, manifest)
