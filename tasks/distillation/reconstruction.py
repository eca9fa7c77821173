"""Layer-wise reconstruction: a pruned student's layers fitted to its teacher's states."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.distillation.objective import check_finite
from tasks.distillation.pruning import decoder_layers
from tasks.distillation.teacher import StateMemory, replaced_layers
from tasks.sequences.packing import Pack, packed_logits
from tasks.stage.errors import ConfigError

# How strongly a fitted weight is held to what it was: times the mean square of its inputs. Measured
# once on the default student, 8,000 tokens: a third and three times as much are worse.
RIDGE = 0.3
# What families call the last linear map of their MLP, whose output is added to the state.
_DOWN = ("down_proj", "dense_4h_to_h")


@dataclass(frozen=True)
class Reconstruction:
    """What came of the layers that were fitted, by the teacher's numbers.

    `before` and `after` are squared distances from the teacher's state over the state's own square,
    averaged over `tokens`.
    """

    tokens: int
    layers: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass
class _PackRun:
    """A pack on its way through a model: its state (1, tokens, width), and what each layer gets."""

    state: Tensor
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]

    def through(self, layer: nn.Module, number: int) -> Tensor:
        """Return what a layer, the model's `number`th, makes of the state."""
        given, named = self.arguments[number]
        found = layer(self.state, *given, **named)
        output: Tensor = found[0] if isinstance(found, tuple) else found
        return output


@torch.no_grad()
def reconstruct(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    kept: Sequence[int],
    packs: Sequence[Pack],
    memory: StateMemory,
) -> Reconstruction:
    """Fit each student layer from the first gap on, so that the next one reads the teacher's state.

    Layer by layer in their order, the output of its MLP (`down_proj`) is chosen by ridge regression
    over all tokens of the packs, prompts too; a token counts by its distance relative to its state,
    since few states are very long. Later layers are fitted on what the fitted ones before them
    give, so errors do not add up. A layer that comes no nearer stays as it was. The memory keeps
    the teacher's last states.
    Source: ReplaceMe (Shopkhoev et al. 2025, arXiv:2505.02819), which folds one linear map for each
    gap into the MLP before it; here every later layer's weight is free.

    Raises:
        ConfigError: the layers have no linear map at the end of their MLP.
        DataError: a state is not finite.
    """
    told, own = decoder_layers(teacher), decoder_layers(student)
    student.eval()
    taught, learning = _pack_runs(teacher, packs), _pack_runs(student, packs)
    reached, layers, before, after = 0, [], [], []
    for place, number in enumerate(kept):
        follower = kept[place + 1] if place + 1 < len(kept) else len(told)
        for passed in range(reached, follower):
            for run in taught:
                run.state = run.through(told[passed], passed)
        reached = follower
        if follower == place + 1:  # nothing is left out so far, so both are in one state
            for run, source in zip(learning, taught, strict=True):
                run.state = source.state.to(run.state.dtype)
            continue
        found = _fit(own[place], place, learning, [run.state for run in taught])
        layers.append(number)
        before.append(found[0])
        after.append(found[1])
    for pack, run in zip(packs, taught, strict=True):
        memory.keep(pack, run.state)
    tokens = sum(pack.tokens for pack in packs)
    return Reconstruction(tokens, tuple(layers), tuple(before), tuple(after))


def _fit(
    layer: nn.Module, place: int, runs: Sequence[_PackRun], targets: Sequence[Tensor]
) -> tuple[float, float]:
    """Fit a layer, take the runs through it and return its error before and after."""
    down = _down_projection(layer)
    width, size = down.weight.shape
    gram = down.weight.new_zeros(size, size)
    missing = down.weight.new_zeros(size, width)
    outputs, before = [], 0.0
    for run, target in zip(runs, targets, strict=True):
        with _inputs(down) as given:
            output = run.through(layer, place)
        outputs.append(output)
        read, weight = given[0][0], _weights(target)
        gram += read.T @ (read * weight)
        missing += read.T @ ((target - output)[0] * weight)
        before += _error(output, target)
    check_finite(missing, "states")
    shift = RIDGE * gram.diagonal().mean() * torch.eye(size, device=gram.device)
    change = torch.linalg.solve((gram + shift).double(), missing.double())
    known = down.weight.clone()
    down.weight += change.T.to(known.dtype)
    fitted = [run.through(layer, place) for run in runs]
    after = sum(map(_error, fitted, targets))
    if not after < before:
        down.weight.copy_(known)
        fitted, after = outputs, before
    for run, state in zip(runs, fitted, strict=True):
        run.state = state
    tokens = sum(run.state.shape[1] for run in runs)
    return before / tokens, after / tokens


def _weights(target: Tensor) -> Tensor:
    """Return what each token counts, (tokens, 1)."""
    return 1 / target[0].float().square().sum(-1, keepdim=True)


def _error(output: Tensor, target: Tensor) -> float:
    """Return relative squared distances, summed over tokens."""
    return float(((target - output)[0].float().square() * _weights(target)).sum())


def _down_projection(layer: nn.Module) -> nn.Linear:
    found = (getattr(getattr(layer, "mlp", None), name, None) for name in _DOWN)
    for module in found:
        if isinstance(module, nn.Linear):
            return module
    raise ConfigError(
        f"{type(layer).__name__} has no linear layer mlp.{' or mlp.'.join(_DOWN)}, so it can't be "
        "fitted to the teacher",
        "set distillation.calibration_tokens: 0, or use a Llama- or Qwen-shaped base",
    )


@contextmanager
def _inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Give what a layer reads, each (1, tokens, width), while this lasts."""
    given: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        yield given
    finally:
        hook.remove()


def _pack_runs(model: PreTrainedModel, packs: Sequence[Pack]) -> list[_PackRun]:
    """Return packs before a model's first layer, with what each layer is given beside the state.

    The model runs with layers that do nothing, and so tells it without computing anything.
    """
    layers = decoder_layers(model)
    runs: list[_PackRun] = []

    def pass_on(state: Tensor, *given: Any, **named: Any) -> Tensor:
        if not runs[-1].arguments:
            runs[-1].state = state
        runs[-1].arguments.append((given, named))
        return state

    with replaced_layers(layers, pass_on):
        for pack in packs:
            runs.append(_PackRun(torch.empty(0), []))
            packed_logits(model, pack.to(model.device))
    return runs
