"""Attention inside a pack: each segment attends to those it continues and, causally, to itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from tasks.stage.errors import ConfigError

PACKED_ATTENTION = "nightloom_packed"


@dataclass(frozen=True, slots=True)
class Segment:
    """The places from `begin` to `end` of a pack; they continue the places of `before`."""

    begin: int
    end: int
    before: tuple[tuple[int, int], ...]


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a model attend segment by segment, as packs need; other calls fail loudly."""
    AttentionInterface.register(PACKED_ATTENTION, _attend_segments)
    AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
    model.set_attn_implementation(PACKED_ATTENTION)


def _no_mask(*_: object, **__: object) -> None:
    """No mask over the pack: what a segment may not see is never handed to it."""
    return None


def _attend_segments(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Sequence[Segment],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a pack; query, key and value are (1, heads, tokens, width).

    Raises:
        ConfigError: the model caps its attention scores or has attention sinks.
    """
    if softcap is not None or s_aux is not None:
        raise ConfigError(
            f"{type(module).__name__} caps its attention scores or has attention sinks; packs are "
            "attended with plain scaled dot products, which would train another model",
            "choose a base without them, such as one of Llama's, Qwen's or Gemma 3's shape",
        )
    grouped = query.shape[1] != key.shape[1]
    rate = dropout if module.training else 0.0
    outputs = []
    for segment in segments:
        asking = query[:, :, segment.begin : segment.end]
        seen = [*segment.before, (segment.begin, segment.end)]
        keys, values = (_gather(states, seen) for states in (key, value))
        mask = _mask(asking.shape[2], keys.shape[2], sliding_window, asking.device)
        outputs.append(
            scaled_dot_product_attention(
                asking,
                keys,
                values,
                attn_mask=mask,
                dropout_p=rate,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _gather(states: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    parts = [states[:, :, begin:end] for begin, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _mask(asking: int, seen: int, window: int | None, device: torch.device) -> Tensor | None:
    """Who may see whom, (asking, seen); None where that is plain causal attention."""
    if window is not None and window < seen:
        mask = torch.ones(asking, seen, dtype=torch.bool, device=device)
        return mask.tril(seen - asking).triu(seen - asking - window + 1)
    return None if asking == seen else causal_lower_right(asking, seen)
