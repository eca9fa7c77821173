"""What rows that are being answered take of memory: a token's keys and values, and slots."""

import torch
from transformers import PreTrainedModel

from tasks.generation.kv_cache import Slots


@torch.inference_mode()
def cache_token_bytes(model: PreTrainedModel) -> int:
    """Return what each token more takes of memory in a model's own cache: keys and values."""

    def held(tokens: int) -> int:
        ids = torch.zeros((1, tokens), dtype=torch.long, device=model.device)
        layers = getattr(model(input_ids=ids, use_cache=True).past_key_values, "layers", [])
        states = [state for layer in layers for state in vars(layer).values()]
        return sum(state.nbytes for state in states if isinstance(state, torch.Tensor))

    return held(2) - held(1)


def held_bytes(slots: Slots, token_bytes: int) -> int:
    """Return how much memory slots take now; a token takes `token_bytes` in all layers.

    Memory of a CPU is taken when a slot is first used, that of other devices all at once.
    """
    if not slots.layers:
        return 0
    first = next(iter(slots.layers.values()))
    rows = len(first.used) if first.path[0].device.type == "cpu" else slots.rows
    return (rows * slots.row_tokens + slots.prompt_tokens) * token_bytes


def unwritten_bytes(slots: Slots, rows: int, token_bytes: int) -> int:
    """Return how much more memory slots take once `rows` rows are in them, path included."""
    wanted = (rows * slots.row_tokens + slots.prompt_tokens) * token_bytes
    return max(0, wanted - held_bytes(slots, token_bytes))
