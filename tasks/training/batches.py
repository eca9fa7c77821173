"""Which examples are learned tonight, and in what order."""

from collections.abc import Sequence
from pathlib import Path

from tasks.records.text import text_sha256
from tasks.sequences.examples import Example, read_examples
from tasks.sequences.packing import Batch, distinct_tokens, one_batch
from tasks.training.params import TrainingParams


def read_batches(
    tokens: Path, params: TrainingParams, *, max_tokens: int
) -> tuple[list[Batch], list[Batch]]:
    """Return the batches to learn from and those to validate on, out of a tokens folder."""
    learned, held_out = read_splits(tokens, params)
    return (
        make_batches(learned, params, max_tokens=max_tokens),
        make_batches(held_out[: params.validation_examples], params, max_tokens=max_tokens),
    )


def read_splits(tokens: Path, params: TrainingParams) -> tuple[list[Example], list[Example]]:
    """Return the examples that the budget lets learn, and all held-out ones, contexts together."""
    train, validation = (
        read_examples(tokens / f"{split}.parquet") for split in ("train", "validation")
    )
    chosen = choose_examples(
        train, token_budget=params.token_budget, new_share=params.new_share, seed=params.seed
    )
    held_out = _contexts(validation, "budget", params.seed)
    return chosen, [item for context in held_out for item in context]


def choose_examples(
    examples: Sequence[Example], *, token_budget: int, new_share: float, seed: int
) -> list[Example]:
    """Return as many contexts as the budget holds, by hash: of the newest intake, and of others.

    The newest may take `new_share` of the budget, and what the others leave of it; so a night that
    brings more than it can learn does not forget what came before. The budget counts what goes
    through the model, a prefix that a context shares once. The same context keeps its place from
    night to night, whatever else comes in.
    """
    newest = max((item.intake for item in examples), default="")
    new: list[list[Example]] = []
    old: list[list[Example]] = []
    for context in _contexts(examples, "budget", seed):
        is_new = any(item.intake == newest for item in context)
        (new if is_new else old).append(context)
    first = _fill(new, int(token_budget * new_share) if old else token_budget)
    left = token_budget - sum(map(distinct_tokens, first))
    second = _fill(old, left)
    left -= sum(map(distinct_tokens, second))
    third = _fill(new[len(first) :], left)
    return [item for context in (*first, *second, *third) for item in context]


def _fill(contexts: Sequence[list[Example]], tokens: int) -> list[list[Example]]:
    """Return the first contexts that hold so many tokens together."""
    chosen: list[list[Example]] = []
    for context in contexts:
        tokens -= distinct_tokens(context)
        if tokens < 0:
            break
        chosen.append(context)
    return chosen


def make_batches(
    examples: Sequence[Example], params: TrainingParams, *, max_tokens: int
) -> list[Batch]:
    """Return the batches of one epoch, in an order that depends on the seed and the contexts'
    names.

    A batch takes contexts in until it holds `batch_examples` examples.
    """
    groups: list[list[Example]] = [[]]
    for context in _contexts(examples, "order", params.seed):
        if len(groups[-1]) >= params.batch_examples:
            groups.append([])
        groups[-1] += context
    return [one_batch(group, max_tokens) for group in groups if group]


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch, counted from 0, takes its batches."""
    if epoch == 0:
        return list(range(count))
    return sorted(
        range(count), key=lambda place: text_sha256("epoch", str(seed), str(epoch), str(place))
    )


def _contexts(examples: Sequence[Example], purpose: str, seed: int) -> list[list[Example]]:
    """Return examples by context, the contexts in an order that depends on purpose and seed."""
    contexts: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda item: item.id):
        contexts.setdefault(example.context, []).append(example)
    names = sorted(contexts, key=lambda name: text_sha256(purpose, str(seed), name))
    return [contexts[name] for name in names]
