"""Batches of examples: which are learned tonight, and in what order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tasks.lm.examples import Example, read_examples
from tasks.lm.packing import Pack, build_pack, distinct_tokens, plan_packs
from tasks.lm.params import TrainingParams
from tasks.records.hashing import text_sha256


@dataclass(frozen=True)
class Batch:
    """The examples that make one optimizer step, and the packs in which they are computed."""

    examples: tuple[Example, ...]
    packs: tuple[Pack, ...]

    @cached_property
    def tokens(self) -> int:
        """How many tokens the examples hold."""
        return sum(len(example.token_ids) for example in self.examples)

    @cached_property
    def supervised(self) -> int:
        """How many tokens are learned."""
        return sum(example.supervised for example in self.examples)

    @cached_property
    def computed_tokens(self) -> int:
        """How many tokens go through the model, each shared prefix once a pack."""
        return sum(pack.tokens for pack in self.packs)

    @cached_property
    def largest_pack(self) -> int:
        """The tokens of the largest pack."""
        return max(pack.tokens for pack in self.packs)

    def repacked(self, max_tokens: int) -> "Batch":
        """The same step in packs of at most so many tokens, but for single examples over that.

        Examples that share passages are held apart where that is what it takes.
        """
        apart = [replace(example, context=example.id) for example in self.examples]
        return Batch(self.examples, _packs(apart, max_tokens))


def read_batches(
    tokens: Path, params: TrainingParams, *, max_tokens: int
) -> tuple[list[Batch], list[Batch]]:
    """The batches to learn from and those to validate on, out of a tokens folder."""
    chosen, held_out = (
        choose_examples(
            read_examples(tokens / f"{split}.parquet"),
            token_budget=params.token_budget,
            seed=params.seed,
        )
        for split in ("train", "validation")
    )
    return (
        make_batches(chosen, params, max_tokens=max_tokens),
        make_batches(held_out[: params.validation_examples], params, max_tokens=max_tokens),
    )


def choose_examples(examples: Sequence[Example], *, token_budget: int, seed: int) -> list[Example]:
    """As many contexts as the budget holds: those of the newest intake first, then by hash.

    The budget counts what goes through the model, a prefix that a context shares once. The same
    context keeps its place from night to night, whatever else comes in.
    """
    chosen: list[Example] = []
    by_hash = _contexts(examples, "budget", seed)
    for context in sorted(by_hash, key=lambda c: max(item.intake for item in c), reverse=True):
        token_budget -= distinct_tokens(context)
        if token_budget < 0:
            break
        chosen += context
    return chosen


def make_batches(
    examples: Sequence[Example], params: TrainingParams, *, max_tokens: int
) -> list[Batch]:
    """The batches of one epoch, in an order that depends on the seed and the contexts' names.

    A batch takes contexts in until it holds `batch_examples` examples.
    """
    groups: list[list[Example]] = [[]]
    for context in _contexts(examples, "order", params.seed):
        if len(groups[-1]) >= params.batch_examples:
            groups.append([])
        groups[-1] += context
    return [Batch(tuple(group), _packs(group, max_tokens)) for group in groups if group]


def _contexts(examples: Sequence[Example], purpose: str, seed: int) -> list[list[Example]]:
    """Examples by context, the contexts in an order that depends on purpose and seed."""
    contexts: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda item: item.id):
        contexts.setdefault(example.context, []).append(example)
    names = sorted(contexts, key=lambda name: text_sha256(purpose, str(seed), name))
    return [contexts[name] for name in names]


def _packs(examples: Sequence[Example], max_tokens: int) -> tuple[Pack, ...]:
    return tuple(build_pack(group) for group in plan_packs(examples, max_tokens))
