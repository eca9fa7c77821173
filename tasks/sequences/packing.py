"""Examples packed into one row, each attending to itself alone; shared prefixes are held once.

A batch is the examples of one optimizer step and the packs in which they are computed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

from tasks.sequences.attention import Segment, attends_by_packs
from tasks.sequences.examples import Example

TokenIds = Sequence[int]


def shared_length(one: TokenIds, other: TokenIds) -> int:
    """Return how many tokens two rows begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def depth_first(rows: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the rows' indices, branch by branch of their prefix tree, the longest branch of a fork
    first.

    What a row shares with any before it, it shares with the one right before it; so a row's own
    tokens are all that is not yet known once the row before it was computed.
    """
    order: list[int] = []
    forks = [sorted(range(len(rows)), key=lambda row: rows[row])] if rows else []
    while forks:
        group = forks.pop()
        # In sorted order, the first and the last differ no later than any two between them.
        shared = shared_length(rows[group[0]], rows[group[-1]])
        order += [row for row in group if len(rows[row]) == shared]
        branches: dict[int, list[int]] = {}
        for row in group:
            if len(rows[row]) > shared:
                branches.setdefault(rows[row][shared], []).append(row)
        longest_last = sorted(
            branches.values(), key=lambda branch: max(len(rows[row]) for row in branch)
        )
        forks += longest_last
    return order


# A prefix is held once where that saves at least this many tokens: each further segment costs two
# more attention calls a layer, which is what about this many tokens cost.
LEAST_SAVED_TOKENS = 16

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Pack:
    """Several examples as one row, a prefix that some of them share held once.

    `input_ids` and `position_ids` are (1, tokens), positions count from each example's first
    token; `segments` say who attends to whom; `learned_from` holds the places whose next token is
    learned and `targets` those tokens, both (supervised,), example by example; `keys` name the
    examples in that order by what they hold, `supervised` says how many tokens of each are learned.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: tuple[Segment, ...]
    learned_from: Tensor
    targets: Tensor
    keys: tuple[str, ...]
    supervised: tuple[int, ...]

    @property
    def examples(self) -> int:
        """Return how many examples it holds."""
        return len(self.keys)

    @property
    def tokens(self) -> int:
        """Return how many tokens go through the model, each shared prefix once."""
        return self.input_ids.shape[1]

    def to(self, device: torch.device) -> "Pack":
        """Return the same pack on a device."""
        tensors = ("input_ids", "position_ids", "learned_from", "targets")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


@dataclass(frozen=True)
class _Run:
    """Tokens that go into a pack once: from `begin` to `end` of each of `rows`."""

    rows: tuple[int, ...]
    begin: int
    end: int


def build_pack(examples: Sequence[Example]) -> Pack:
    """Return the pack of a group of examples, exact whatever prefixes they share.

    Source: the tree attention of shared-prefix batching, as in Juravsky et al. 2024
    (arXiv:2402.05099), here in training and with ordinary attention inside each segment.
    """
    rows = [example.token_ids for example in examples]
    places: list[list[int]] = [[] for _ in rows]
    segments: list[Segment] = []
    ids: list[int] = []
    positions: list[int] = []
    paths: list[tuple[tuple[int, int], ...]] = [() for _ in rows]
    for run in _runs(rows, tuple(range(len(rows))), 0):
        start, size = len(ids), run.end - run.begin
        segments.append(Segment(start, start + size, paths[run.rows[0]]))
        ids += rows[run.rows[0]][run.begin : run.end]
        positions += range(run.begin, run.end)
        for row in run.rows:
            places[row] += range(start, start + size)
            paths[row] = (*paths[row], (start, start + size))
    learned = [
        (places[row][at], token)
        for row, example in enumerate(examples)
        for at, token in enumerate(
            example.token_ids[example.prompt_length :], start=example.prompt_length - 1
        )
    ]
    learned_from, targets = torch.tensor(learned).T
    return Pack(
        torch.tensor([ids]),
        torch.tensor([positions]),
        tuple(segments),
        learned_from,
        targets,
        tuple(example.key for example in examples),
        tuple(example.supervised for example in examples),
    )


def _runs(rows: Sequence[Tokens], members: tuple[int, ...], begin: int) -> Iterator[_Run]:
    """Yield the runs of rows that agree up to `begin`, each after those that it continues."""
    if len(members) == 1:
        yield _Run(members, begin, len(rows[members[0]]))
        return
    examples = [rows[row] for row in members]
    # In sorted order, the first and the last differ no later than any two between them.
    shared = shared_length(min(examples), max(examples))
    if (shared - begin) * (len(members) - 1) >= LEAST_SAVED_TOKENS:
        yield _Run(members, begin, shared)
        begin = shared
    ended = [row for row in members if len(rows[row]) == shared]
    for row in ended if begin < shared else ():
        yield _Run((row,), begin, shared)
    going_on = sorted((row for row in members if row not in ended), key=lambda row: rows[row])
    for _, group in groupby(going_on, key=lambda row: rows[row][shared]):
        yield from _runs(rows, tuple(group), begin)


def distinct_tokens(examples: Sequence[Example]) -> int:
    """Return how many tokens examples have when every shared prefix counts once."""
    rows = sorted(example.token_ids for example in examples)
    return sum(map(len, rows)) - sum(shared_length(*pair) for pair in pairwise(rows))


def plan_packs(examples: Sequence[Example], max_tokens: int) -> list[list[Example]]:
    """Return examples in groups of at most `max_tokens`, first fit by falling size.

    Examples of one context stay together, so that what they share is held once. A context that is
    larger gets a group of its own; none is cut or left out.
    """
    contexts: dict[str, list[Example]] = {}
    for example in examples:
        contexts.setdefault(example.context, []).append(example)
    groups: list[list[Example]] = []
    room: list[int] = []
    sized = [(distinct_tokens(context), context) for context in contexts.values()]
    for size, context in sorted(sized, key=lambda item: item[0], reverse=True):
        place = next((number for number, left in enumerate(room) if left >= size), None)
        if place is None:
            groups.append(list(context))
            room.append(max_tokens - size)
        else:
            groups[place] += context
            room[place] -= size
    return groups


def packed_logits(model: nn.Module, pack: Pack) -> Tensor:
    """Return the logits (supervised, vocabulary) from which a pack's targets are predicted.

    A model that does not attend by packs takes packs of one example.
    """
    if not attends_by_packs(model):
        assert pack.examples == 1
        whole: Tensor = model(input_ids=pack.input_ids, use_cache=False).logits
        return whole[0, pack.learned_from]
    logits: Tensor = model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        logits_to_keep=pack.learned_from,
        segments=pack.segments,
        use_cache=False,
    ).logits
    return logits[0]


@dataclass(frozen=True)
class Batch:
    """The examples that make one optimizer step, and the packs in which they are computed."""

    examples: tuple[Example, ...]
    packs: tuple[Pack, ...]

    @cached_property
    def tokens(self) -> int:
        """Return how many tokens the examples hold."""
        return sum(len(example.token_ids) for example in self.examples)

    @cached_property
    def supervised(self) -> int:
        """Return how many tokens are learned."""
        return sum(example.supervised for example in self.examples)

    @cached_property
    def computed_tokens(self) -> int:
        """Return how many tokens go through the model, each shared prefix once a pack."""
        return sum(pack.tokens for pack in self.packs)

    @cached_property
    def largest_pack(self) -> int:
        """Return the tokens of the largest pack."""
        return max(pack.tokens for pack in self.packs)

    @property
    def longest_example(self) -> int:
        """Return the tokens of the longest example, which no pack splits."""
        return max(len(example.token_ids) for example in self.examples)

    @property
    def example_remedy(self) -> str:
        """Return what people can do where one example alone does not fit into memory."""
        return "lower tokenization.max_tokens or finetuning.rank, or take a smaller base"

    @property
    def activations_remedy(self) -> str:
        """Return what people can do where the largest pack would not fit into memory."""
        return (
            "lower compute.micro_batch_tokens, or tokenization.max_tokens where single examples "
            "are long"
        )

    def repacked(self, max_tokens: int) -> "Batch":
        """Return the same step in packs of at most so many tokens, but for single examples over
        that.

        Examples that share passages are held apart where that is what it takes.
        """
        apart = [replace(example, context=example.id) for example in self.examples]
        return Batch(self.examples, _packs(apart, max_tokens))


def one_batch(examples: Sequence[Example], max_tokens: int) -> Batch:
    """Return all examples as one batch, in packs of at most so many tokens; nothing is learned from
    it.
    """
    return Batch(tuple(examples), _packs(examples, max_tokens))


def _packs(examples: Sequence[Example], max_tokens: int) -> tuple[Pack, ...]:
    return tuple(build_pack(group) for group in plan_packs(examples, max_tokens))
