"""How teacher, student and control do on held-out examples, with intervals and by slice."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from tasks.distillation.objective import TeacherSignal, forward_kl
from tasks.sequences.packing import Batch, packed_logits
from tasks.statistics.bootstrap import Interval, bootstrap_ratio

CONFIDENCE = 0.95

_RESAMPLES = 2000

# Draws the interval of a ratio: sums of values over sums of weights.
Bootstrap = Callable[[Sequence[float], Sequence[float]], Interval]

_METRICS = ("loss", "divergence", "agreement")


@dataclass(frozen=True)
class HeldOutScore:
    """One model on one held-out example: sums over its learned tokens.

    `loss`, the teacher's own `teacher_loss`, and `divergence`, KL(teacher || model) at temperature
    1, are in nats; `agreement` counts the tokens of which both find the same one likeliest.
    """

    slice: str
    tokens: int
    loss: float
    divergence: float
    agreement: float
    teacher_loss: float


def score_held_out(
    model: nn.Module, teacher: TeacherSignal, batches: Sequence[Batch], width: int
) -> list[HeldOutScore]:
    """Return what a model says of held-out examples, each beside what its teacher says."""
    slices = {item.key: item.slice for batch in batches for item in batch.examples}
    device = next(model.parameters()).device
    model.eval()
    found = []
    with torch.no_grad():
        for pack in (pack.to(device) for batch in batches for pack in batch.packs):
            student = packed_logits(model, pack)[:, :width]
            told = teacher(pack)
            assert isinstance(told, Tensor)
            columns = _position_metrics(student.float(), told.float(), pack.targets)
            parts = [column.split(pack.supervised) for column in columns]
            for place, key in enumerate(pack.keys):
                sums = [float(part[place].sum()) for part in parts]
                found.append(HeldOutScore(slices[key], pack.supervised[place], *sums))
    return found


def _position_metrics(student: Tensor, teacher: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Return loss, divergence, agreement and the teacher's loss at each position."""
    return (
        cross_entropy(student, targets, reduction="none"),
        forward_kl(log_softmax(student, -1), log_softmax(teacher, -1)),
        (student.argmax(-1) == teacher.argmax(-1)).float(),
        cross_entropy(teacher, targets, reduction="none"),
    )


def bootstrap(seed: int) -> Bootstrap:
    """Return what draws the intervals of this stage: percentile bootstrap over examples."""
    return partial(bootstrap_ratio, confidence=CONFIDENCE, resamples=_RESAMPLES, seed=seed)


def held_out_metrics(held: Sequence[HeldOutScore], draw: Bootstrap) -> dict[str, Any]:
    """Return means per learned token with intervals, over all examples; by slice means alone."""
    slices: dict[str, list[HeldOutScore]] = defaultdict(list)
    for item in held:
        slices[item.slice].append(item)
    found: dict[str, Any] = {name: asdict(held_out_interval(held, name, draw)) for name in _METRICS}
    found["slices"] = {
        name or "none": {figure: _mean(items, figure) for figure in _METRICS}
        | {"examples": len(items)}
        for name, items in sorted(slices.items())
    }
    return found


def held_out_interval(held: Sequence[HeldOutScore], name: str, draw: Bootstrap) -> Interval:
    """Return a figure's mean per learned token and its interval over examples."""
    return draw([getattr(item, name) for item in held], [item.tokens for item in held])


def divergence_share(
    student: Sequence[HeldOutScore], control: Sequence[HeldOutScore], draw: Bootstrap
) -> Interval:
    """Return the student's divergence from the teacher over its control's, paired by example."""
    return draw([item.divergence for item in student], [item.divergence for item in control])


def _mean(held: Sequence[HeldOutScore], name: str) -> float:
    total: float = sum(getattr(item, name) for item in held)
    return total / sum(item.tokens for item in held)
