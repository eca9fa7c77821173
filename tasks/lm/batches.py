"""Batches of examples: which are learned tonight, and in what order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.lm.examples import Example, choose_examples, read_examples
from tasks.lm.packing import Pack, build_pack, plan_packs
from tasks.lm.params import TrainingParams
from tasks.records.hashing import text_sha256


@dataclass(frozen=True)
class Batch:
    """The packs that make one optimizer step."""

    packs: tuple[Pack, ...]
    tokens: int
    supervised: int


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


def make_batches(
    examples: Sequence[Example], params: TrainingParams, *, max_tokens: int
) -> list[Batch]:
    """The batches of one epoch, in an order that depends on the seed and the examples' ids."""
    order = sorted(examples, key=lambda item: text_sha256("order", str(params.seed), item.id))
    groups = [
        order[start : start + params.batch_examples]
        for start in range(0, len(order), params.batch_examples)
    ]
    return [_make_batch(group, max_tokens) for group in groups]


def _make_batch(examples: Sequence[Example], max_tokens: int) -> Batch:
    return Batch(
        tuple(build_pack(group) for group in plan_packs(examples, max_tokens)),
        sum(len(example.token_ids) for example in examples),
        sum(example.supervised for example in examples),
    )
