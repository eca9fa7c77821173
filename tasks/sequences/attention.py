"""Attention inside a pack: each segment attends to those it continues and, causally, to itself."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

PACKED_ATTENTION = "nightloom_packed"


@dataclass(frozen=True, slots=True)
class Segment:
    """The places from `begin` to `end` of a pack; they continue the places of `before`."""

    begin: int
    end: int
    before: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class AttentionArguments:
    """How a model attends: what its own attention function is told."""

    module: torch.nn.Module
    scaling: float | None
    dropout: float
    window: int | None
    rest: dict[str, Any]


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a model attend segment by segment, as packs need; other calls fail loudly."""
    AttentionInterface.register(PACKED_ATTENTION, _attend_segments)
    AttentionMaskInterface.register(PACKED_ATTENTION, no_mask)
    model.set_attn_implementation(PACKED_ATTENTION)


def use_plain_attention(model: PreTrainedModel) -> None:
    """Let a model attend as it will where it is loaded next: by torch's own function, or by its
    own where it knows no other (scores that are capped, for one).
    """
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")


def attends_by_packs(model: torch.nn.Module) -> bool:
    """Return whether `use_packed_attention` was called with a model, itself or below an adapter."""
    config: Any = model.config
    return bool(config._attn_implementation == PACKED_ATTENTION)  # no public name says it


def no_mask(*_: object, **__: object) -> None:
    """Return no mask over what is packed: our attention function knows who may see whom."""
    return None


def is_eager(form: AttentionArguments) -> bool:
    """Return whether scores are capped or have attention sinks, which torch's attention does not
    know.
    """
    return form.rest.get("softcap") is not None or form.rest.get("s_aux") is not None


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
    **rest: Any,
) -> tuple[Tensor, None]:
    """Compute attention of a pack; query, key and value are (1, heads, tokens, width).

    Torch's own, on CUDA its flash kernel where there is no window; scores that are capped and
    attention sinks, which it does not know, by the function of the model's own file (eager).
    """
    rate = dropout if module.training else 0.0
    form = AttentionArguments(module, scaling, rate, sliding_window, rest)
    attend = _attend_by_model if is_eager(form) else _attend_by_torch
    outputs = []
    for segment in segments:
        asking = query[:, :, segment.begin : segment.end]
        seen = [*segment.before, (segment.begin, segment.end)]
        keys, values = (_gather(states, seen) for states in (key, value))
        outputs.append(attend(asking, keys, values, form))
    return torch.cat(outputs, 1), None


def _attend_by_torch(
    asking: Tensor, keys: Tensor, values: Tensor, form: AttentionArguments
) -> Tensor:
    """Compute attention of one segment, (1, tokens, heads, width)."""
    mask = _mask(asking.shape[2], keys.shape[2], form.window, asking.device)
    found = scaled_dot_product_attention(
        asking,
        keys,
        values,
        attn_mask=mask,
        dropout_p=form.dropout,
        is_causal=mask is None,
        scale=form.scaling,
        enable_gqa=asking.shape[1] != keys.shape[1],
    )
    return found.transpose(1, 2)


def _attend_by_model(
    asking: Tensor, keys: Tensor, values: Tensor, form: AttentionArguments
) -> Tensor:
    """Return the same by the function of the model's own file."""
    seen = _seen(asking.shape[2], keys.shape[2], form.window, asking.device)
    hidden = hidden_places(seen, asking.dtype)
    return attend_eagerly(asking, keys, values, hidden[None, None], form)


def hidden_places(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores so that only what is seen counts."""
    hidden = torch.zeros_like(seen, dtype=dtype)
    return hidden.masked_fill_(~seen, torch.finfo(dtype).min)


def attend_eagerly(
    asking: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, form: AttentionArguments
) -> Tensor:
    """Compute attention as a model's own file does, (rows, tokens, heads, width).

    `hidden` is added to the scores, (rows or 1, 1, asking, seen).
    """
    eager: Callable[..., tuple[Tensor, Tensor]]
    eager = sys.modules[type(form.module).__module__].eager_attention_forward
    found, _ = eager(
        form.module,
        asking,
        keys,
        values,
        hidden,
        scaling=form.scaling,
        dropout=form.dropout,
        **form.rest,
    )
    return found


def _gather(states: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    parts = [states[:, :, begin:end] for begin, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _mask(asking: int, seen: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return who may see whom, (asking, seen); None where that is plain causal attention."""
    if window is not None and window < seen:
        return _seen(asking, seen, window, device)
    return None if asking == seen else causal_lower_right(asking, seen)


def _seen(asking: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """Return who may see whom, (asking, seen), as booleans; the last place asks last."""
    mask = torch.ones(asking, seen, dtype=torch.bool, device=device).tril(seen - asking)
    return mask if window is None else mask.triu(seen - asking - window + 1)
