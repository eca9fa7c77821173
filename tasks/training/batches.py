"""Which examples are learned tonight, and in what order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tasks.records.schema import slice_source
from tasks.records.text import text_sha256
from tasks.sequences.examples import Example, read_examples, read_weights
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
    weights = read_weights(tokens)
    reviewed = choose_feedback(train, params, weights)
    corrected = {slice_source(item.slice) for item in reviewed}
    chosen = choose_examples(
        [item for item in train if not item.is_feedback],
        token_budget=params.token_budget - _tokens(reviewed, params.seed),
        new_share=params.new_share,
        seed=params.seed,
        weights={name: value for name, value in weights.items() if name not in corrected},
    )
    return [*reviewed, *chosen], in_budget_order(validation, params.seed)


def choose_feedback(
    examples: Sequence[Example], params: TrainingParams, weights: Mapping[str, float]
) -> list[Example]:
    """Return the feedback among examples as often as it is learned, as much as its share holds.

    A pass through all of it comes before the next, and of one pass the newest intakes. What is
    learned again stands under a context of its own, so that it comes in another step.
    """
    reviewed = [item for item in examples if item.is_feedback]
    named = {slice_source(item.slice) for item in reviewed} & weights.keys()
    share = params.feedback_share
    if named:
        share = sum(weights[name] for name in named) / sum(weights.values())
    contexts = _contexts(reviewed, "budget", params.seed)
    contexts.sort(key=lambda context: max(item.intake for item in context), reverse=True)
    passes = [
        [replace(item, context=f"{item.context} again {number}") for item in context]
        for number in range(2, params.feedback_passes + 1)
        for context in contexts
    ]
    learned = _fill([*contexts, *passes], int(params.token_budget * share))
    return [item for context in learned for item in context]


def choose_examples(
    examples: Sequence[Example],
    *,
    token_budget: int,
    new_share: float,
    seed: int,
    weights: Mapping[str, float] | None = None,
) -> list[Example]:
    """Return as many contexts as the budget holds, by hash: of the newest intake, and of others.

    The newest may take `new_share` of the budget, and what the others leave of it; so a night that
    brings more than it can learn does not forget what came before. The budget counts what goes
    through the model, a prefix that a context shares once. The same context keeps its place from
    night to night, whatever else comes in.

    With `weights` each source has a part of the budget, its weight over their sum. What a small
    source leaves of it goes to the others by their weights, and what all of them leave to examples
    of sources without a weight, which params name no longer.
    """
    newest = max((item.intake for item in examples), default="")
    choose = partial(_choose, newest=newest, new_share=new_share, seed=seed)
    if not weights:
        return choose(examples, token_budget=token_budget)
    sources: dict[str, list[Example]] = {name: [] for name in weights}
    others: list[Example] = []
    for example in examples:
        sources.get(slice_source(example.slice), others).append(example)
    sizes = {name: _tokens(found, seed) for name, found in sources.items()}
    parts = _parts(sizes, weights, token_budget)
    chosen = {name: choose(found, token_budget=parts[name]) for name, found in sources.items()}
    left = token_budget - sum(_tokens(found, seed) for found in chosen.values())
    rest = choose(others, token_budget=left)
    return [item for found in (*chosen.values(), rest) for item in found]


def _parts(
    sizes: Mapping[str, int], weights: Mapping[str, float], token_budget: int
) -> dict[str, int]:
    """Return the tokens of the budget that each source may take: more than it has, for a small one.

    What a small one leaves is shared among the others.
    """
    parts: dict[str, int] = {}
    left, waiting = token_budget, sorted(weights)
    while waiting:
        whole = sum(weights[name] for name in waiting)
        shares = {name: int(left * (weights[name] / whole)) for name in waiting}
        settled = [name for name in waiting if sizes[name] <= shares[name]] or waiting
        parts |= {name: shares[name] for name in settled}
        left -= sum(min(sizes[name], shares[name]) for name in settled)
        waiting = [name for name in waiting if name not in parts]
    return parts


def _tokens(examples: Sequence[Example], seed: int) -> int:
    """Return how many tokens of examples go through the model, shared prefixes once."""
    return sum(map(distinct_tokens, _contexts(examples, "budget", seed)))


def _choose(
    examples: Sequence[Example], *, newest: str, token_budget: int, new_share: float, seed: int
) -> list[Example]:
    """Return what fits: contexts with rows of the newest intake first, up to their share."""
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


def fill_budget(examples: Sequence[Example], tokens: int, seed: int) -> list[Example]:
    """Return as many examples as so many tokens hold, whole contexts, by hash."""
    contexts = _fill(_contexts(examples, "budget", seed), tokens)
    return [item for context in contexts for item in context]


def in_budget_order(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return all examples in the order in which a budget takes them, contexts together."""
    return [item for context in _contexts(examples, "budget", seed) for item in context]


def tokens_by_source(batches: Sequence[Batch], weights: Mapping[str, float]) -> dict[str, int]:
    """Return how many tokens of each source with a weight are learned, shared prefixes once."""
    examples = [example for batch in batches for example in batch.examples]
    by_source = {
        name: [item for item in examples if slice_source(item.slice) == name] for name in weights
    }
    return {name: _tokens(found, 0) for name, found in by_source.items()}


def count_feedback(batches: Sequence[Batch]) -> dict[str, int]:
    """Return how many rows of feedback an epoch learns, and how often; nothing where it has none.

    `examples` counts a row as often as it is learned.
    """
    ids = [item.id for batch in batches for item in batch.examples if item.is_feedback]
    return {"rows": len(set(ids)), "examples": len(ids)} if ids else {}


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


def epoch_order(count: int, seed: int, epoch: int, *, leading: int = 0) -> list[int]:
    """Return the order in which an epoch, counted from 0, takes its batches.

    The first `leading` ones come before the others in every epoch.
    """
    if epoch == 0:
        return list(range(count))
    return sorted(
        range(count),
        key=lambda place: (
            place >= leading,
            text_sha256("epoch", str(seed), str(epoch), str(place)),
        ),
    )


def _contexts(examples: Sequence[Example], purpose: str, seed: int) -> list[list[Example]]:
    """Return examples by context, the contexts in an order that depends on purpose and seed."""
    contexts: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda item: item.id):
        contexts.setdefault(example.context, []).append(example)
    names = sorted(contexts, key=lambda name: text_sha256(purpose, str(seed), name))
    return [contexts[name] for name in names]
