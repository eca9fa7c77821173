"""Preferences learned by DPO: of two answers to a prompt, the chosen one against the rejected one.

Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7. The reference is the model as it is when
the training begins; what it finds the answers' likelihood to be is computed once.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedModel

from tasks.finetuning.params import FinetuningParams
from tasks.sequences.examples import (
    HELD_OUT_PREFERENCES_FILE,
    PREFERENCES_FILE,
    Example,
    read_examples,
)
from tasks.sequences.likelihood import example_losses, summed_cross_entropy
from tasks.sequences.packing import Batch, Pack, one_batch, packed_logits
from tasks.sequences.packing_check import prepare_packs
from tasks.stage.errors import ConfigError
from tasks.training.batches import fill_budget, in_budget_order, make_batches
from tasks.training.loop import train
from tasks.training.params import TrainingParams
from tasks.training.trainer import validation_loss

LOGGER = logging.getLogger(__name__)
SERIES = "preferences"  # of its curves and checkpoints
_AT_FIRST = math.log(2)  # the loss of a model that is its reference
_NOTHING = (
    "It bought nothing on held-out pairs: take more pairs, a lower learning_rate or a higher beta, "
    "or set finetuning.preferences: null."
)


class PairBatch(Batch):
    """A batch of pairs, each of them whole in one pack; its loss is a mean over pairs."""

    @cached_property
    def supervised(self) -> int:
        """Return how many pairs it holds, which is what its loss is divided by."""
        return len(self.examples) // 2

    def repacked(self, max_tokens: int) -> "PairBatch":
        """Return the same step in packs of at most so many tokens; a longer pair has its own."""
        return PairBatch(self.examples, one_batch(self.examples, max_tokens).packs)


@dataclass(frozen=True)
class PairBatches:
    """The pairs that a training learns, and those that are held out; none where it learns none."""

    learned: list[PairBatch] = field(default_factory=list)
    held_out: list[PairBatch] = field(default_factory=list)


def read_pair_batches(tokens: Path, params: FinetuningParams, *, max_tokens: int) -> PairBatches:
    """Return the batches of pairs to learn and of those held out; none where params have no
    preferences.

    Raises:
        ConfigError: the tokens hold no pairs, or the budget holds none.
    """
    settings, has_pairs = params.preferences, (tokens / PREFERENCES_FILE).exists()
    if settings is None:
        if has_pairs:
            LOGGER.warning("finetuning.preferences is null: no rejected answer is learned")
        return PairBatches()
    if not has_pairs:
        raise ConfigError(
            "finetuning.preferences is set, and tokenization made no token ids of rejected answers",
            "set tokenization.preferences: true, or finetuning.preferences: null",
        )
    learned = fill_budget(
        read_examples(tokens / PREFERENCES_FILE), settings.token_budget, params.seed
    )
    if not learned:
        raise ConfigError(
            f"finetuning.preferences.token_budget {settings.token_budget} holds no pair",
            "raise it, or lower tokenization.max_tokens",
        )
    pairs = in_budget_order(read_examples(tokens / HELD_OUT_PREFERENCES_FILE), params.seed)
    held_out = pairs[: 2 * params.validation_examples]
    return PairBatches(
        make_pair_batches(learned, params, max_tokens=max_tokens),
        make_pair_batches(held_out, params, max_tokens=max_tokens),
    )


def make_pair_batches(
    examples: Sequence[Example], params: TrainingParams, *, max_tokens: int
) -> list[PairBatch]:
    """Return the batches of one epoch, each of `batch_examples` answers or one pair."""
    return [
        PairBatch(batch.examples, batch.packs)
        for batch in make_batches(examples, params, max_tokens=max_tokens)
    ]


def check_packed(
    model: PreTrainedModel, pairs: PairBatches, others: Iterable[Sequence[Batch]] = ()
) -> None:
    """Check that a model computes pairs exactly, which takes one that packs them and the others.

    It is set to attend by packs.

    Raises:
        ConfigError: the model does not pack.
    """
    if not pairs.learned:
        return
    exact, *_ = prepare_packs(model, pairs.learned, pairs.held_out, *others)
    if any(one is not other for one, other in zip(exact, pairs.learned, strict=True)):
        raise ConfigError(
            f"{type(model).__name__} computes each example alone, and a pair is compared in one "
            "pack",
            "set finetuning.preferences: null, or take another base",
        )


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss of DPO, summed over a pack's pairs, in nats.

    `reference` has the log-probability of each answer by its example's key.
    """

    beta: float
    reference: Mapping[str, float]

    def __call__(self, model: nn.Module, pack: Pack) -> Tensor:
        """Return the summed loss of a pack's pairs; a scalar."""
        return -logsigmoid(self.beta * self.margins(model, pack)).sum()

    def margins(self, model: nn.Module, pack: Pack) -> Tensor:
        """Return by how many nats each pair's answers moved apart since the reference, (pairs,)."""
        losses = cross_entropy(packed_logits(model, pack).float(), pack.targets, reduction="none")
        found = torch.stack([-part.sum() for part in losses.split(pack.supervised)])
        gained = found - found.new_tensor([self.reference[key] for key in pack.keys])
        return gained[0::2] - gained[1::2]


def reference_log_probabilities(model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the log-probability of each answer under the model as it is, by its example's key."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found: dict[str, float] = {}
    with torch.inference_mode():
        for batch in batches:
            for pack in (pack.to(device) for pack in batch.packs):
                losses = example_losses(model, pack)
                found |= {key: -loss for key, loss in zip(pack.keys, losses, strict=True)}
    model.train(training)
    return found


def preferred_share(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the share of the pairs whose chosen answer the model finds the likelier one."""
    found = reference_log_probabilities(model, batches)
    every = [example for batch in batches for example in batch.examples]
    pairs = list(zip(every[0::2], every[1::2], strict=True))
    return sum(found[one.key] > found[other.key] for one, other in pairs) / len(pairs)


@dataclass(frozen=True)
class PreferencesResult:
    """What preferences bought and cost.

    `accuracy` is the share of the held-out pairs whose chosen answer gained on the rejected one,
    half by chance; `preferred_before` and `preferred_after` are shares of those whose chosen answer
    is the likelier one; `answers_loss_before` and `answers_loss_after` the mean validation loss of
    a token of answers, in nats: what it cost. `loss` is DPO's on the held-out pairs at its best, of
    ln 2 before.
    """

    pairs: int
    held_out: int
    steps: int
    loss: float
    accuracy: float
    preferred_before: float
    preferred_after: float
    answers_loss_before: float
    answers_loss_after: float

    @property
    def text(self) -> str:
        """Return it as lines of a report."""
        found = (
            f"Preferences (DPO): {self.pairs} pairs in {self.steps} steps after the answers. Loss "
            f"on {self.held_out} held-out pairs {_AT_FIRST:.3f} before, {self.loss:.3f} at its "
            f"best. Their chosen answer gained on the rejected one in {self.accuracy:.0%} (half by "
            f"chance); it is the likelier one in {self.preferred_before:.0%} before and "
            f"{self.preferred_after:.0%} after. Validation loss of the answers, which is what it "
            f"cost: {self.answers_loss_before:.3f} before, {self.answers_loss_after:.3f} after "
            "(nats per learned token)."
        )
        return found if self.loss < _AT_FIRST else f"{found} {_NOTHING}"


def learn_preferences(
    model: nn.Module,
    pairs: PairBatches,
    answers: Sequence[Batch],
    params: FinetuningParams,
    *,
    scratch: Path,
    identity: str,
    share: tuple[float, float],
) -> PreferencesResult | None:
    """Train a model on pairs after its answers; None where params have no preferences.

    The reference is the model as it comes; `answers` is what it was validated on; `share` is what
    of the stage this is. Raises as `train` does.
    """
    settings = params.preferences
    if settings is None:
        return None
    learned, held_out = pairs.learned, pairs.held_out
    own = {"learning_rate": settings.learning_rate, "token_budget": settings.token_budget}
    params = params.model_copy(update=own)
    reference = reference_log_probabilities(model, [*learned, *held_out])
    loss = PreferenceLoss(settings.beta, reference)
    preferred = preferred_share(model, held_out)
    answers_loss = validation_loss(model, answers, summed_cross_entropy)
    result = train(
        model, learned, held_out, loss, params, scratch=scratch, identity=identity,
        series=SERIES, share=share,
    )  # fmt: skip
    return PreferencesResult(
        sum(batch.supervised for batch in learned),
        sum(batch.supervised for batch in held_out),
        result.steps,
        result.best_validation_loss,
        _accuracy(model, held_out, loss),
        preferred,
        preferred_share(model, held_out),
        answers_loss,
        validation_loss(model, answers, summed_cross_entropy),
    )


def _accuracy(model: nn.Module, batches: Sequence[Batch], loss: PreferenceLoss) -> float:
    """Return the share of the pairs whose answers moved apart as they should."""
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        gained = [
            loss.margins(model, pack.to(device)) > 0 for batch in batches for pack in batch.packs
        ]
    return float(torch.cat(gained).float().mean())
