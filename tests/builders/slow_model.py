"""A model made twice as slow, for what shall find that it is."""

import copy
from dataclasses import replace
from typing import Any

from tasks.models.loading import LanguageModel


def twice_as_slow(model: LanguageModel) -> LanguageModel:
    """The same model, its tokens and weights, of which every pass is done twice.

    The first time without a cache, so that the second finds it as it was.
    """
    slow = copy.copy(model.model)
    config, forward = slow.config.get_text_config(), slow.forward
    plain = config._attn_implementation

    def twice(*inputs: Any, **named: Any) -> Any:
        own, config._attn_implementation = config._attn_implementation, plain
        forward(input_ids=named["input_ids"], use_cache=False, logits_to_keep=1)
        config._attn_implementation = own
        return forward(*inputs, **named)

    slow.forward = twice  # type: ignore[method-assign]
    return replace(model, model=slow)
