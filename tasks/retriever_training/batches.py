"""Pairs as the training loop takes them: each batch is one step, and computed at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tasks.embedding.prompts import Prompts
from tasks.lexical.chunking import Passage
from tasks.retriever_training.pairs import Pair

# Texts to what the encoder reads of them, (texts, tokens) each.
Tokenize = Callable[[Sequence[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class PairPack:
    """The texts of a batch's pairs, as the encoder reads them.

    The passages begin with the pairs' own. `negatives`, (pairs, passages), says which of them do
    not hold what a pair asks; `targets`, (pairs,), where its own is.
    """

    questions: Mapping[str, Tensor]
    passages: Mapping[str, Tensor]
    negatives: Tensor
    targets: Tensor

    @property
    def examples(self) -> int:
        """Return how many pairs it holds."""
        return len(self.targets)

    @property
    def tokens(self) -> int:
        """Return how many tokens go through the encoder, padding included."""
        return sum(one["input_ids"].numel() for one in (self.questions, self.passages))

    @property
    def text_tokens(self) -> int:
        """Return how many tokens the texts have."""
        sides = (self.questions, self.passages)
        return sum(int(one["attention_mask"].sum()) for one in sides)

    def to(self, device: torch.device) -> "PairPack":
        """Return the same on a device."""
        questions, passages = (
            {name: tensor.to(device) for name, tensor in side.items()}
            for side in (self.questions, self.passages)
        )
        return replace(
            self,
            questions=questions,
            passages=passages,
            negatives=self.negatives.to(device),
            targets=self.targets.to(device),
        )


@dataclass(frozen=True)
class PairBatch:
    """The pairs of one step. It is never split: each pair is told from the passages of all."""

    examples: tuple[Pair, ...]
    packs: tuple[PairPack]

    @cached_property
    def tokens(self) -> int:
        """Return how many tokens the texts have."""
        return self.packs[0].text_tokens

    @property
    def computed_tokens(self) -> int:
        """Return how many tokens go through the encoder."""
        return self.packs[0].tokens

    @property
    def supervised(self) -> int:
        """Return how many questions are learned."""
        return len(self.examples)

    @property
    def largest_pack(self) -> int:
        """Return the tokens of the batch."""
        return self.packs[0].tokens

    @property
    def longest_example(self) -> int:
        """Return the same, since it is never split."""
        return self.largest_pack

    @property
    def example_remedy(self) -> str:
        """Return what people can do where it does not fit into memory."""
        return "lower retriever_training.batch_pairs or hard_negatives, or take a smaller embedder"

    @property
    def activations_remedy(self) -> str:
        """Return what people can do where it would not fit into memory."""
        return self.example_remedy

    def repacked(self, max_tokens: int) -> "PairBatch":
        """Return itself."""
        del max_tokens
        return self


def make_batches(
    pairs: Sequence[Pair],
    hard: Sequence[tuple[Passage, ...]],
    tokenize: Tokenize,
    prompts: Prompts,
    *,
    size: int,
) -> list[PairBatch]:
    """Return pairs in batches of so many, in their order, each with its hard negatives."""
    return [
        _batch(pairs[at : at + size], hard[at : at + size], tokenize, prompts)
        for at in range(0, len(pairs), size)
    ]


def _batch(
    pairs: Sequence[Pair],
    hard: Sequence[tuple[Passage, ...]],
    tokenize: Tokenize,
    prompts: Prompts,
) -> PairBatch:
    passages = [pair.passage for pair in pairs] + [one for row in hard for one in row]
    negatives = torch.tensor([[not pair.is_held_by(one) for one in passages] for pair in pairs])
    pack = PairPack(
        tokenize([prompts.query + pair.question for pair in pairs]),
        tokenize([prompts.passage + one.shown for one in passages]),
        negatives,
        torch.arange(len(pairs)),
    )
    return PairBatch(tuple(pairs), (pack,))


def masked_share(batches: Sequence[PairBatch]) -> float:
    """Return the share of (question, other pair's passage) that are no negatives."""
    held = sum(int((~batch.packs[0].negatives).sum()) - len(batch.examples) for batch in batches)
    whole = sum(batch.packs[0].negatives.numel() - len(batch.examples) for batch in batches)
    return held / whole if whole else 0.0
