"""A teacher's last states, remembered: no pack goes through its layers twice."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.distillation.pruning import decoder_layers
from tasks.lm.packing import Pack, packed_logits


class StateMemory:
    """What a teacher's last layer gave for some packs, each state (1, tokens, width).

    From there to the logits are a norm and the vocabulary head, which are computed anew: a state is
    smaller than its logits by a factor of about a hundred, and as exact.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._wanted: set[tuple[str, ...]] = set()
        self._states: dict[tuple[str, ...], Tensor] = {}

    def want(self, packs: Iterable[Pack]) -> None:
        """Remember these packs once they have been computed."""
        self._wanted |= {pack.keys for pack in packs}

    def keep(self, pack: Pack, state: Tensor) -> None:
        """Remember what the last layer gave for a pack."""
        self._states[pack.keys] = state

    def logits(self, model: PreTrainedModel, pack: Pack) -> Tensor:
        """The logits (supervised, vocabulary) of the model that all packs were computed by."""
        layers = decoder_layers(model)
        state = self._states.get(pack.keys)
        if state is not None:
            with replaced(layers, lambda *_, **__: state):
                return packed_logits(model, pack)
        if pack.keys not in self._wanted:
            return packed_logits(model, pack)
        with _output(layers[-1]) as given:
            logits = packed_logits(model, pack)
        self.keep(pack, given[0])
        return logits


@contextmanager
def replaced(layers: nn.ModuleList, forward: Callable[..., Any]) -> Iterator[None]:
    """Let layers do something else while this lasts."""
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def _output(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer gives, while this lasts."""
    given: list[Tensor] = []

    def take(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        given.append((output[0] if isinstance(output, tuple) else output).detach())

    hook = layer.register_forward_hook(take)
    try:
        yield given
    finally:
        hook.remove()
