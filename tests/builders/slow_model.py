"""A model made slower, for what shall find that it is."""

import copy
from dataclasses import replace
from typing import Any

from tasks.models.loading import LanguageModel


def with_more_passes(model: LanguageModel, passes: int) -> LanguageModel:
    """The same model, its tokens and weights, of which every pass is done so many times.

    All but the last are without a cache, so that the last finds it as it was.
    """
    slow = copy.copy(model.model)
    config, forward = slow.config.get_text_config(), slow.forward
    plain = config._attn_implementation

    def repeated(*inputs: Any, **named: Any) -> Any:
        own, config._attn_implementation = config._attn_implementation, plain
        for _ in range(passes - 1):
            forward(input_ids=named["input_ids"], use_cache=False, logits_to_keep=1)
        config._attn_implementation = own
        return forward(*inputs, **named)

    slow.forward = repeated  # type: ignore[method-assign]
    return replace(model, model=slow)
