"""Documents that a training learns before its answers: how much, in which batches, at what gain."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from tasks.finetuning.params import FinetuningParams
from tasks.sequences.examples import (
    DOCUMENTS_FILE,
    HELD_OUT_DOCUMENTS_FILE,
    Example,
    count_documents,
    read_examples,
)
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch
from tasks.sequences.packing_check import prepare_packs
from tasks.stage.errors import ConfigError
from tasks.training.batches import fill_budget, in_budget_order, make_batches, read_batches
from tasks.training.trainer import validation_loss

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingBatches:
    """What a training learns, documents before answers, and what it is validated on."""

    answers: list[Batch]
    held_out: list[Batch]
    documents: list[Batch] = field(default_factory=list)
    held_out_documents: list[Batch] = field(default_factory=list)

    def exact_with(self, model: PreTrainedModel) -> "TrainingBatches":
        """Return them as they can be computed exactly with a model, which is set to attend so."""
        return TrainingBatches(*prepare_packs(model, *self.groups))

    @property
    def groups(self) -> tuple[list[Batch], ...]:
        """Return all of them."""
        return self.answers, self.held_out, self.documents, self.held_out_documents

    @property
    def learned(self) -> list[Batch]:
        """Return what an epoch learns, documents first."""
        return [*self.documents, *self.answers]


@dataclass(frozen=True)
class DocumentsResult:
    """What was learned of documents, and the perplexity of those held out.

    `share` is that of the tokens of an epoch; perplexity is the exponential of the mean loss of a
    token, before training and after all of it, answers too.
    """

    documents: int
    tokens: int
    share: float
    held_out: int
    held_out_tokens: int
    perplexity_before: float
    perplexity_after: float

    @property
    def text(self) -> str:
        """Return it as lines of a report."""
        return (
            f"Documents: {self.documents}, {self.tokens} tokens ({self.share:.0%} of an epoch), "
            f"learned before the answers. Perplexity on {self.held_out} held-out documents "
            f"({self.held_out_tokens} tokens): {self.perplexity_before:.2f} before, "
            f"{self.perplexity_after:.2f} after."
        )


def read_training_batches(
    tokens: Path, params: FinetuningParams, *, max_tokens: int
) -> TrainingBatches:
    """Return the batches of a training; documents take their share of the budget, as they come.

    What they leave of their share goes to the answers. With a share of 0 the answers are those of
    `read_batches`.

    Raises:
        ConfigError: documents have a share and the tokens hold none, their share holds not one
            piece, or nothing is left for the answers.
    """
    has_documents = (tokens / DOCUMENTS_FILE).exists()
    if has_documents and not params.documents_share:
        LOGGER.warning("finetuning.documents_share is 0: no document is learned")
    if not params.documents_share:
        return TrainingBatches(*read_batches(tokens, params, max_tokens=max_tokens))
    if not has_documents:
        raise ConfigError(
            f"finetuning.documents_share is {params.documents_share}, and tokenization made no "
            "token ids of documents",
            "set tokenization.documents: true, or finetuning.documents_share: 0.0",
        )
    learned = _learned_documents(tokens, params)
    left = params.token_budget - sum(len(piece.token_ids) for piece in learned)
    rest = params.model_copy(update={"token_budget": left})
    answers, held_out = read_batches(tokens, rest, max_tokens=max_tokens)
    if not answers:
        raise ConfigError(
            f"finetuning.documents_share {params.documents_share} leaves answers {left} of "
            f"{params.token_budget} tokens (token_budget), which hold not one context",
            "lower documents_share, or raise token_budget",
        )
    pieces = in_budget_order(read_examples(tokens / HELD_OUT_DOCUMENTS_FILE), params.seed)
    return TrainingBatches(
        answers,
        held_out,
        make_batches(learned, params, max_tokens=max_tokens),
        make_batches(pieces[: params.validation_examples], params, max_tokens=max_tokens),
    )


def _learned_documents(tokens: Path, params: FinetuningParams) -> list[Example]:
    room = int(params.token_budget * params.documents_share)
    learned = fill_budget(read_examples(tokens / DOCUMENTS_FILE), room, params.seed)
    if not learned:
        raise ConfigError(
            f"finetuning.documents_share leaves documents {room} of {params.token_budget} tokens "
            "(token_budget), which hold no piece of a document",
            "raise documents_share or token_budget, or lower tokenization.max_tokens",
        )
    return learned


def documents_loss(model: nn.Module, batches: TrainingBatches) -> float:
    """Return the mean loss of a token of held-out documents, in nats; 0 where none is learned."""
    if not batches.documents:
        return 0.0
    return validation_loss(model, batches.held_out_documents, summed_cross_entropy)


def documents_result(
    batches: TrainingBatches, before: float, after: float
) -> DocumentsResult | None:
    """Return what documents came to, from both losses; None where none is learned."""
    if not batches.documents:
        return None
    learned, held_out = _pieces(batches.documents), _pieces(batches.held_out_documents)
    answers = sum(batch.computed_tokens for batch in batches.answers)
    tokens = sum(len(piece.token_ids) for piece in learned)
    return DocumentsResult(
        count_documents(learned),
        tokens,
        tokens / (tokens + answers),
        count_documents(held_out),
        sum(piece.supervised for piece in held_out),
        math.exp(before),
        math.exp(after),
    )


def _pieces(batches: Sequence[Batch]) -> list[Example]:
    return [piece for batch in batches for piece in batch.examples]
