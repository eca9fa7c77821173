"""How likely a model finds given answers: losses over packs, as sums in nats.

Training learns by them; evaluation takes them without a gradient, closed book."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import encode_answers
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.predictions import Likelihood
from tasks.records.schema import Record
from tasks.sequences.examples import Example
from tasks.sequences.packing import Batch, Pack, one_batch, packed_logits
from tasks.sequences.packing_check import prepare_packs
from tasks.stage.errors import DataError

# The loss of a model on a pack, summed over its supervised tokens, in nats; a scalar.
SummedLoss = Callable[[nn.Module, Pack], Tensor]


def example_losses(model: nn.Module, pack: Pack) -> list[float]:
    """Return the negative log-likelihood of each example's targets, in nats, in pack order."""
    losses = cross_entropy(packed_logits(model, pack).float(), pack.targets, reduction="none")
    return [float(part.double().sum()) for part in losses.split(pack.supervised)]


def summed_cross_entropy(model: nn.Module, pack: Pack) -> Tensor:
    """Return the summed negative log-likelihood of a pack's targets, in nats; a scalar."""
    return cross_entropy(packed_logits(model, pack).float(), pack.targets, reduction="sum")


def log_likelihoods(
    model: PreTrainedModel, examples: Sequence[Example], *, max_tokens: int
) -> list[float]:
    """Return the summed log-probability of each example's learned tokens, in nats, as they come.

    Packs hold at most `max_tokens` tokens, prefixes that examples share once; a longer example has
    one of its own. The model attends as it did before when this returns.

    Raises:
        DataError: one is not finite.
    """
    if not examples:
        return []
    found: dict[str, float] = {}
    with _in_packs(model, one_batch(examples, max_tokens)) as batch, torch.inference_mode():
        for pack in (pack.to(model.device) for pack in batch.packs):
            found |= zip(pack.keys, example_losses(model, pack), strict=True)
    values = [-found[example.key] for example in examples]
    lost = [
        item.id for item, value in zip(examples, values, strict=True) if not math.isfinite(value)
    ]
    if lost:
        raise DataError(
            f"the model gives {len(lost)} of {len(values)} answers a likelihood that is not "
            f"finite, {lost[0]} the first; expected a number for each",
            "look for weights that overflow, or train again at a lower learning rate",
        )
    return values


def perplexity(log_likelihood: float, tokens: int) -> float:
    """Return the exponential of the mean negative log-likelihood of a token."""
    return math.exp(-log_likelihood / tokens)


@contextmanager
def _in_packs(model: PreTrainedModel, batch: Batch) -> Iterator[Batch]:
    """Yield the batch as it is exact with a model, which attends by packs until the block ends."""
    own = model.config._attn_implementation  # no public name says it
    model.eval()
    try:
        [[exact]] = prepare_packs(model, [batch])
        yield exact
    finally:
        model.set_attn_implementation(own)


@dataclass(frozen=True, slots=True)
class AnswerLikelihood:
    """How likely a model finds a record's reference answer; fields are those of `Likelihood`."""

    record: str
    slice: str
    log_likelihood: float
    tokens: int

    def named(self, system: str) -> Likelihood:
        """Return it as a row of a system that is known by this name."""
        return Likelihood(system, self.record, self.slice, self.log_likelihood, self.tokens)

    def followed_by(self, later: "AnswerLikelihood") -> "AnswerLikelihood":
        """Return it with a later turn of the same record."""
        return replace(
            self,
            log_likelihood=self.log_likelihood + later.log_likelihood,
            tokens=self.tokens + later.tokens,
        )


def reference_likelihoods(
    model: LanguageModel, template: PromptTemplate, records: Sequence[Record], *, max_tokens: int
) -> list[AnswerLikelihood]:
    """Return how likely a model finds each record's answer after its question alone.

    Records of one id are a conversation up to each of its turns, which are taken together.

    Raises:
        DataError: one of them is not finite.
    """
    examples = closed_book_examples(template, model.tokenizer, records)
    values = log_likelihoods(model.model, examples, max_tokens=max_tokens)
    found: dict[str, AnswerLikelihood] = {}
    for example, value in zip(examples, values, strict=True):
        known = found.get(example.id)
        own = AnswerLikelihood(example.id, example.slice, value, example.supervised)
        found[example.id] = own if known is None else known.followed_by(own)
    return list(found.values())


def closed_book_examples(
    template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
) -> list[Example]:
    """Return each record's answer after its question without passages.

    Their prompts share a beginning, which packs hold once.
    """
    prompts = template.token_ids(tokenizer, [Prompt(item.messages[:-1], ()) for item in records])
    answers = encode_answers(tokenizer, [record.answer for record in records])
    return [
        Example(
            record.id,
            record.slice,
            record.intake,
            "closed_book",
            record.id,
            tuple(prompt + answer),
            len(prompt),
        )
        for record, prompt, answer in zip(records, prompts, answers, strict=True)
    ]
