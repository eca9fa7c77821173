"""How teacher, student and twin do on the same held-out examples, with intervals and by slice."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from tasks.distillation.lessons import Teacher
from tasks.distillation.objective import forward_kl
from tasks.lm.batches import Batch
from tasks.lm.packing import packed_logits
from tasks.statistics.intervals import Interval, bootstrap_ratio

# Of the intervals: percentile bootstrap over examples.
CONFIDENCE = 0.95
_RESAMPLES = 2000
_FIGURES = ("loss", "divergence", "agreement")


@dataclass(frozen=True)
class Held:
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


def measure(model: nn.Module, teacher: Teacher, batches: Sequence[Batch], width: int) -> list[Held]:
    """What a model says of held-out examples, each beside what its teacher says."""
    slices = {item.key: item.slice for batch in batches for item in batch.examples}
    device = next(model.parameters()).device
    model.eval()
    found = []
    with torch.no_grad():
        for pack in (pack.to(device) for batch in batches for pack in batch.packs):
            student = packed_logits(model, pack)[:, :width]
            told = teacher(pack)
            assert isinstance(told, Tensor)
            columns = _figures(student.float(), told.float(), pack.targets)
            parts = [column.split(pack.supervised) for column in columns]
            for place, key in enumerate(pack.keys):
                sums = [float(part[place].sum()) for part in parts]
                found.append(Held(slices[key], pack.supervised[place], *sums))
    return found


def _figures(student: Tensor, teacher: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Loss, divergence, agreement and the teacher's loss at each position."""
    return (
        cross_entropy(student, targets, reduction="none"),
        forward_kl(log_softmax(student, -1), log_softmax(teacher, -1)),
        (student.argmax(-1) == teacher.argmax(-1)).float(),
        cross_entropy(teacher, targets, reduction="none"),
    )


def figures(held: Sequence[Held], seed: int) -> dict[str, Any]:
    """Means per learned token with their intervals, over all examples; means alone by slice."""
    slices: dict[str, list[Held]] = defaultdict(list)
    for item in held:
        slices[item.slice].append(item)
    found: dict[str, Any] = {name: asdict(interval(held, name, seed)) for name in _FIGURES}
    found["slices"] = {
        name or "none": {figure: _mean(items, figure) for figure in _FIGURES}
        | {"examples": len(items)}
        for name, items in sorted(slices.items())
    }
    return found


def interval(held: Sequence[Held], name: str, seed: int) -> Interval:
    """A figure's mean per learned token and its bootstrap interval over examples."""
    return bootstrap_ratio(
        [getattr(item, name) for item in held],
        [item.tokens for item in held],
        confidence=CONFIDENCE,
        resamples=_RESAMPLES,
        seed=seed,
    )


def divergence_share(student: Sequence[Held], twin: Sequence[Held], seed: int) -> Interval:
    """The student's divergence from the teacher over its twin's, paired by example."""
    return bootstrap_ratio(
        [item.divergence for item in student],
        [item.divergence for item in twin],
        confidence=CONFIDENCE,
        resamples=_RESAMPLES,
        seed=seed,
    )


def _mean(held: Sequence[Held], name: str) -> float:
    total: float = sum(getattr(item, name) for item in held)
    return total / sum(item.tokens for item in held)
