"""Keys and values of rows that are decoded together, and the attention that reads them.

All that goes through the model at once is one packed row, a pass: the newest token of each row that
is being decoded, then pieces of prompts. A decoded row has a slot of its own. Prompts come in the
order of their prefix tree, so one path holds the keys of the latest of them, and with them those of
everything that the next one shares with any before it. A prompt that is whole is copied from the
path into a slot. So memory is that of `rows` slots, each as long as the longest prompt and answer,
and of one prompt, however many there are to answer.

Source: iteration-level batching as in Orca (Yu et al. 2022, OSDI), prefixes in a tree as in SGLang
(Zheng et al. 2024, arXiv:2312.07104, section 3), here without pages and without eviction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from tasks.sequences.attention import (
    AttentionArguments,
    attend_eagerly,
    hidden_places,
    is_eager,
    no_mask,
)

SLOT_ATTENTION = "nightloom_slots"


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """The tokens from `begin` to `end` of a pass: those of a prompt from position `start` on.

    `slot` is the row's own where its prompt is whole with them, else None.
    """

    begin: int
    end: int
    start: int
    slot: int | None

    @property
    def stop(self) -> int:
        """Return how many of the prompt's tokens are known after it."""
        return self.start + self.end - self.begin


@dataclass(frozen=True)
class _Layer:
    """One layer's keys and values.

    Those of the path are (heads, prompt tokens, width), those of slots (rows, heads, row tokens,
    width). Slots that were not `used` hold anything.
    """

    path: tuple[Tensor, Tensor]
    slots: tuple[Tensor, Tensor]
    used: set[int] = field(default_factory=set)

    def fill(self, slot: int, tokens: int) -> None:
        """Copy the path's first tokens into a slot.

        What lies behind them is masked, which does not help against what is no number: so zeros
        when a slot is first used. All slots at once would be a gigabyte written for one question.
        """
        for room, path in zip(self.slots, self.path, strict=True):
            room[slot, :, :tokens] = path[:, :tokens]
            if slot not in self.used:
                room[slot, :, tokens:] = 0.0
        self.used.add(slot)


@dataclass(frozen=True)
class Slots:
    """Room for so many rows of so many tokens and for one prompt's, in each layer that asks."""

    rows: int
    prompt_tokens: int
    row_tokens: int
    layers: dict[nn.Module, _Layer] = field(default_factory=dict, repr=False)

    def layer(self, module: nn.Module, key: Tensor, value: Tensor) -> _Layer:
        """Return a layer's room; made when the layer is first seen."""
        if module not in self.layers:
            heads = key.shape[1]
            slots = [
                states.new_empty((self.rows, heads, self.row_tokens, states.shape[3]))
                for states in (key, value)
            ]
            path = [
                states.new_empty((heads, self.prompt_tokens, states.shape[3]))
                for states in (key, value)
            ]
            self.layers[module] = _Layer((path[0], path[1]), (slots[0], slots[1]))
        return self.layers[module]

    @torch.inference_mode()
    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of one slot into another."""
        for layer in self.layers.values():
            for room in layer.slots:
                room[target, :, :tokens] = room[source, :, :tokens]


@dataclass(frozen=True)
class Pass:
    """What goes through the model at once.

    `input_ids` and `position_ids` are (1, tokens): first the newest token of the rows in slots 0
    to `decoded`, then the pieces. `answering` are the places whose next token is asked for.
    """

    input_ids: Tensor
    position_ids: Tensor
    decoded: int
    pieces: tuple[PromptChunk, ...]
    slots: Slots
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def answering(self) -> Tensor:
        """Return the places (rows,) whose next token is asked for, slot by slot."""
        ends = [piece.end - 1 for piece in self.pieces if piece.slot is not None]
        places = [*range(self.decoded), *ends]
        return torch.tensor(places, dtype=torch.long, device=self.input_ids.device)

    @cached_property
    def rows(self) -> Tensor:
        """Return the slots of the decoded rows, (decoded,)."""
        return torch.arange(self.decoded, device=self.input_ids.device)

    @cached_property
    def lengths(self) -> Tensor:
        """Return at which position each decoded row is, (decoded,)."""
        return self.position_ids[0, : self.decoded]

    @cached_property
    def width(self) -> int:
        """Return how many positions the longest decoded row holds."""
        return int(self.lengths.max()) + 1

    def decoded_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores of decoded rows, (decoded, 1, 1, width)."""
        return self._mask(-1, self.lengths, self.width, window, dtype)[:, None, None]

    def piece_mask(self, piece: PromptChunk, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores of a piece, (1, 1, tokens, positions so far)."""
        positions = self.position_ids[0, piece.begin : piece.end]
        return self._mask(piece.begin, positions, piece.stop, window, dtype)[None, None]

    def _mask(
        self, name: int, positions: Tensor, width: int, window: int | None, dtype: torch.dtype
    ) -> Tensor:
        """Return the mask, made once a pass and window, not once a layer."""
        if (name, window) not in self.masks:
            places = torch.arange(width, device=positions.device)
            seen = places <= positions[:, None]
            if window is not None:
                seen &= places > positions[:, None] - window
            self.masks[name, window] = hidden_places(seen, dtype)
        return self.masks[name, window]


def register_slot_attention() -> None:
    """Let models be told to attend by slots; a call without a pass fails loudly."""
    AttentionInterface.register(SLOT_ATTENTION, _attend_slots)
    AttentionMaskInterface.register(SLOT_ATTENTION, no_mask)


def _attend_slots(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    decoding: Pass,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Compute attention of a pass; query, key and value are (1, heads, tokens, width).

    Keys and values are kept. Torch's own attention, or the model's (eager) where scores are capped
    or have sinks.
    """
    form = AttentionArguments(module, scaling, 0.0, sliding_window, rest)
    layer = decoding.slots.layer(module, key, value)
    made = query.new_empty((1, query.shape[2], query.shape[1], value.shape[3]))
    if decoding.decoded:
        made[0, : decoding.decoded] = _attend_decoded(decoding, layer, query, key, value, form)
    for piece in decoding.pieces:
        span = slice(piece.begin, piece.end)
        for room, states in zip(layer.path, (key, value), strict=True):
            room[:, piece.start : piece.stop] = states[0, :, span]
        made[:, span] = _attend_piece(decoding, piece, layer, query[:, :, span], form)
        if piece.slot is not None:
            layer.fill(piece.slot, piece.stop)
    return made, None


def _attend_decoded(
    decoding: Pass,
    layer: _Layer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    form: AttentionArguments,
) -> Tensor:
    """Compute attention of the newest token of each decoded row, (decoded, heads, width)."""
    count = decoding.decoded
    for slots, states in zip(layer.slots, (key, value), strict=True):
        slots[decoding.rows, :, decoding.lengths] = states[0, :, :count].transpose(0, 1)
    keys, values = (slots[:count, :, : decoding.width] for slots in layer.slots)
    asking = query[0, :, :count].transpose(0, 1)
    mask = decoding.decoded_mask(form.window, query.dtype)
    if is_eager(form):
        return attend_eagerly(asking[:, :, None], keys, values, mask, form)[:, 0]
    # Heads that share their keys ask together, as if they were tokens: no key is repeated.
    grouped = asking.reshape(count, keys.shape[1], -1, asking.shape[2])
    found = scaled_dot_product_attention(grouped, keys, values, mask, scale=form.scaling)
    return found.reshape(count, -1, found.shape[3])


def _attend_piece(
    decoding: Pass, piece: PromptChunk, layer: _Layer, asking: Tensor, form: AttentionArguments
) -> Tensor:
    """Compute attention of a piece to the path and itself, (1, tokens, heads, width)."""
    keys, values = (room[None, :, : piece.stop] for room in layer.path)
    if is_eager(form):
        mask = decoding.piece_mask(piece, form.window, asking.dtype)
        return attend_eagerly(asking, keys, values, mask, form)
    plain = piece.start == 0 and (form.window is None or form.window >= piece.stop)
    found = scaled_dot_product_attention(
        asking,
        keys,
        values,
        None if plain else decoding.piece_mask(piece, form.window, asking.dtype),
        is_causal=plain,
        scale=form.scaling,
        enable_gqa=asking.shape[1] != keys.shape[1],
    )
    return found.transpose(1, 2)


def make_pass(
    token_ids: Sequence[int],
    positions: Sequence[int],
    decoded: int,
    pieces: Sequence[PromptChunk],
    slots: Slots,
    device: torch.device,
) -> Pass:
    """Return a pass of these tokens at these positions."""
    return Pass(
        torch.tensor([token_ids], device=device),
        torch.tensor([positions], device=device),
        decoded,
        tuple(pieces),
        slots,
    )
