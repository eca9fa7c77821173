"""Which of its teacher's layers a student has, and how all others are left out."""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, kl_div
from transformers import PreTrainedModel

from tasks.sequences.packing import Pack, packed_logits
from tasks.stage.errors import ConfigError

LOGGER = logging.getLogger(__name__)
LAYERS_FILE = "layers.json"
LayerRule = Literal["divergence", "importance", "uniform"]


@dataclass(frozen=True)
class Influence:
    """A number for each of a teacher's layers, and what it measures."""

    values: tuple[float, ...]
    measure: str


@dataclass(frozen=True)
class StudentPlan:
    """One student of the night: its name, and the teacher's layers that it keeps.

    `kept` is None for a student that is a model of its own; `origin` is the digest of that model,
    or says which layers are kept.
    """

    name: str
    kept: tuple[int, ...] | None
    origin: str


def block_influence(model: PreTrainedModel, packs: Sequence[Pack]) -> list[float]:
    """Return how much each decoder layer turns its input, from 0 (not at all) to 2, by token.

    One minus the cosine between a layer's input and output (Men et al. 2024, arXiv:2403.03853,
    section 3, there called block influence).
    """
    layers = decoder_layers(model)
    sums = [0.0] * len(layers)

    def measure(number: int, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor]) -> None:
        after = output[0] if isinstance(output, tuple) else output
        sums[number] += (
            (1 - cosine_similarity(inputs[0].float(), after.float(), dim=-1)).sum().item()
        )

    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, output, number=number: measure(number, inputs, output)
        )
        for number, layer in enumerate(layers)
    ]
    try:
        with torch.no_grad():
            for pack in packs:
                packed_logits(model, pack.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(pack.tokens for pack in packs)
    return [total / tokens for total in sums]


def removal_divergence(model: PreTrainedModel, packs: Sequence[Pack]) -> list[float]:
    """Return KL(model || model without the layer), in nats an answer token, for each layer.

    The model runs once more for each of them. One layer at a time is left out, as in Kim et al.
    2024 (arXiv:2402.02834, section 3), whose measure is the perplexity that remains.
    """
    layers = decoder_layers(model)
    sums, positions = [0.0] * len(layers), 0
    with torch.no_grad():
        for pack in (pack.to(model.device) for pack in packs):
            whole = packed_logits(model, pack).float().log_softmax(-1)
            positions += len(whole)
            for number, layer in enumerate(layers):
                hook = layer.register_forward_hook(_pass_on)
                try:
                    without = packed_logits(model, pack).float().log_softmax(-1)
                finally:
                    hook.remove()
                sums[number] += kl_div(without, whole, reduction="sum", log_target=True).item()
    return [total / positions for total in sums]


def _pass_on(
    _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]
) -> Tensor | tuple[Tensor, ...]:
    """Return a layer's output as if it were not there: its input."""
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]


def measure_influence(
    model: PreTrainedModel, packs: Sequence[Pack], rule: LayerRule | Sequence[int]
) -> Influence:
    """Return what a rule chooses layers by; where it asks for nothing, what the report shows."""
    if rule == "divergence":
        return Influence(tuple(removal_divergence(model, packs)), "KL without it, nats a token")
    return Influence(tuple(block_influence(model, packs)), "1 - cosine of input and output")


def choose_layers(influence: Sequence[float], count: int, rule: LayerRule) -> list[int]:
    """Return the rising numbers of `count` layers: the most influential, or evenly spread.

    Raises:
        ConfigError: there are fewer layers than asked for, or as many.
    """
    total = len(influence)
    check_layers(range(count), total)
    if rule == "uniform":
        return [round(place * (total - 1) / max(count - 1, 1)) for place in range(count)]
    ranked = sorted(range(total), key=lambda number: (-influence[number], number))
    return sorted(ranked[:count])


def check_layers(kept: Sequence[int], total: int) -> None:
    """Check that these are layers of a teacher with `total`, each once and rising, and fewer.

    Raises:
        ConfigError: they are not.
    """
    if len(kept) >= total:
        raise ConfigError(
            f"a student of {len(kept)} layers is asked for and its teacher has {total}; a student "
            "needs fewer than its teacher",
            f"set distillation.students to at most {total - 1} layers",
        )
    absent = [number for number in kept if not 0 <= number < total]
    if absent or list(kept) != sorted(set(kept)):
        raise ConfigError(
            f"distillation.layers names {list(kept)}; the teacher's layers are 0 to {total - 1}, "
            "and each is kept at most once, in its order",
            "name some of these, rising, or set layers: divergence",
        )


def plan_students(
    asked: Sequence[int | Literal["model"]],
    rule: LayerRule | Sequence[int],
    influence: Sequence[float],
    student_base: str,
) -> list[StudentPlan]:
    """Return the students that are asked for, their layers chosen by a rule or by number.

    `student_base` is the digest of the model that `model` stands for.

    Raises:
        ConfigError: a student is not smaller than the teacher, or a layer does not exist.
    """
    plans = []
    for size in asked:
        if size == "model":
            plans.append(StudentPlan(size, None, student_base))
            continue
        if isinstance(rule, str):
            kept = choose_layers(influence, size, rule)
        else:
            kept = list(rule)
            check_layers(kept, len(influence))
        LOGGER.info("the student of %d layers keeps %s", size, kept)
        plans.append(StudentPlan(str(size), tuple(kept), f"layers {kept}"))
    return plans


def make_folder(
    plan: StudentPlan, influence: Influence, rule: LayerRule | Sequence[int], folder: Path
) -> Path:
    """Make a student's folder in another, with its `layers.json`, and return it.

    The file holds the teacher's layers that the student has, and the scores behind it.
    """
    place = folder / plan.name
    place.mkdir()
    told: dict[str, object] = {"layers": plan.kept, "of": len(influence.values), "rule": rule}
    told |= {"influence": influence.values, "measure": influence.measure}
    (place / LAYERS_FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return place


def prune(teacher: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Return a copy of the teacher with these decoder layers alone, renumbered from 0."""
    return keep_layers(copy.deepcopy(teacher), kept)


def prune_shared(base: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Return a model of these layers alone that has the base's very weights, quantised or not.

    What is copied is the tree of modules; each tensor is there once, whoever computes with it.
    """
    memo: dict[int, Any] = {id(item): item for item in (*base.parameters(), *base.buffers())}
    # What bitsandbytes knows of its 4-bit weights, and of its int8 layers once they have computed.
    states = [getattr(weight, "quant_state", None) for weight in base.parameters()]
    states += [getattr(module, "state", None) for module in base.modules()]
    memo |= {id(state): state for state in states if state is not None}
    return keep_layers(copy.deepcopy(base, memo), kept)


def keep_layers(student: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Return the model itself, left with these decoder layers, renumbered from 0."""
    place = layers_name(student)
    layers = decoder_layers(student)
    total = len(layers)
    left = nn.ModuleList([layers[number] for number in kept])
    setattr(student.get_decoder(), place, left)
    for number, layer in enumerate(left):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                cast(Any, module).layer_idx = number
    student.config.num_hidden_layers = len(kept)
    for name, value in list(vars(student.config).items()):
        # What a config says layer by layer, such as layer_types or no_rope_layers.
        if "layer" in name and isinstance(value, list) and len(value) == total:
            setattr(student.config, name, [value[number] for number in kept])
    return student


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return a causal model's decoder layers.

    Raises:
        ConfigError: its decoder has no list of them.
    """
    found: nn.ModuleList = getattr(model.get_decoder(), layers_name(model))
    return found


def layers_name(model: PreTrainedModel) -> str:
    """Return what a causal model's decoder calls its layers: its one list of so many modules.

    Raises:
        ConfigError: its decoder has no such list, or several.
    """
    total = model.config.get_text_config().num_hidden_layers
    names: list[str] = [
        name
        for name, module in model.get_decoder().named_children()
        if isinstance(module, nn.ModuleList) and len(module) == total
    ]
    if len(names) != 1:
        raise ConfigError(
            f"{type(model).__name__} has no decoder with one list of {total} layers, so none can "
            "be left out",
            "set distillation.students: [model] and name a smaller model under models.student, or "
            "use a Llama-, Qwen- or Gemma-shaped base",
        )
    return names[0]
