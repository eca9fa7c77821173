"""Examples packed end to end in one row, each attending to itself alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from tasks.lm.examples import Example

PACKED_ATTENTION = "nightloom_packed"


@dataclass(frozen=True)
class Pack:
    """Several examples as one row.

    `input_ids` and `position_ids` are (1, tokens), positions start anew with each example;
    `lengths` are the examples' lengths; `learned_from` holds the positions whose next token is
    learned and `targets` those tokens, both (supervised,).
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    learned_from: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Pack":
        """The same pack on a device."""
        tensors = ("input_ids", "position_ids", "learned_from", "targets")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def plan_packs(examples: Sequence[Example], max_tokens: int) -> list[list[Example]]:
    """Examples in groups of at most `max_tokens`, first fit by falling length.

    An example longer than that gets a group of its own; none is cut or left out.
    """
    groups: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda item: len(item.token_ids), reverse=True):
        size = len(example.token_ids)
        place = next((number for number, left in enumerate(room) if left >= size), None)
        if place is None:
            groups.append([example])
            room.append(max_tokens - size)
        else:
            groups[place].append(example)
            room[place] -= size
    return groups


def build_pack(examples: Sequence[Example]) -> Pack:
    """The pack of a group of examples."""
    lengths = tuple(len(example.token_ids) for example in examples)
    starts = [end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
    learned = [
        start + position
        for example, start in zip(examples, starts, strict=True)
        for position in range(example.prompt_length - 1, len(example.token_ids) - 1)
    ]
    ids = torch.tensor([token for example in examples for token in example.token_ids])
    positions = torch.cat([torch.arange(length) for length in lengths])
    learned_from = torch.tensor(learned)
    return Pack(ids[None], positions[None], lengths, learned_from, ids[learned_from + 1])


def packed_logits(model: nn.Module, pack: Pack) -> Tensor:
    """The logits (supervised, vocabulary) from which a pack's targets are predicted."""
    logits: Tensor = model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        logits_to_keep=pack.learned_from,
        segment_lengths=pack.lengths,
        use_cache=False,
    ).logits
    return logits[0]


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a model attend segment by segment, as `packed_logits` needs; other calls fail loudly."""
    AttentionInterface.register(PACKED_ATTENTION, _attend_segments)
    AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
    model.set_attn_implementation(PACKED_ATTENTION)


def _no_mask(*_: object, **__: object) -> None:
    """No mask is needed: segments are cut out, and each is causal."""
    return None


def _attend_segments(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: Sequence[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment; query, key and value are (1, heads, tokens, width)."""
    sizes = list(segment_lengths)
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    grouped = query.shape[1] != key.shape[1]
    rate = dropout if module.training else 0.0
    outputs = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=rate, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in parts
    ]
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None
