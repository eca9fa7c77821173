"""What a student learns from: its teacher's distributions and the gold tokens.

All divergences are sums over outcomes of log-probabilities: the whole vocabulary, or the teacher's
likeliest tokens and one outcome for all others together."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils.checkpoint import checkpoint

from tasks.distillation.params import ObjectiveParams
from tasks.sequences.likelihood import SummedLoss
from tasks.sequences.packing import Pack, packed_logits
from tasks.stage.errors import ConfigError, DataError

# Positions whose distributions are held at once; the others' are computed again when needed.
CHUNK = 128


@dataclass(frozen=True)
class Likeliest:
    """A teacher's likeliest tokens at each position, and the mass of all others.

    `token_ids` (positions, k); `log_probs` (positions, k) and `log_rest` (positions,) at the
    temperature at which they were taken.
    """

    token_ids: Tensor
    log_probs: Tensor
    log_rest: Tensor


# What a teacher says: logits (positions, vocabulary), or the likeliest tokens.
TeacherOutput = Tensor | Likeliest

TeacherSignal = Callable[[Pack], TeacherOutput]


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) at each position, in nats.

    Both are log-probabilities by outcome. The student pays for what it leaves out
    (Hinton et al. 2015, arXiv:1503.02531).
    """
    return _expected(teacher, teacher - student)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(student || teacher) at each position, in nats.

    Both are log-probabilities by outcome. The student pays for what it makes up
    (MiniLLM, Gu et al. 2023, arXiv:2306.08543).
    """
    return _expected(student, student - teacher)


def jensen_shannon(student: Tensor, teacher: Tensor, *, weight: float) -> Tensor:
    """Return the generalised Jensen-Shannon divergence at each position, in nats.

    0 < `weight` < 1. It is `weight` KL(teacher || m) + (1 - `weight`) KL(student || m), with the
    mixture m = `weight` teacher + (1 - `weight`) student (GKD, Agarwal et al. 2023,
    arXiv:2306.13649, section 2).
    """
    mixture = torch.logaddexp(teacher + math.log(weight), student + math.log(1 - weight))
    return weight * _expected(teacher, teacher - mixture) + (1 - weight) * _expected(
        student, student - mixture
    )


def blended_loss(
    student_logits: Tensor, teaching: TeacherOutput | None, targets: Tensor, params: ObjectiveParams
) -> Tensor:
    """Return the blend of divergences and cross-entropy, summed over positions, in nats; a scalar.

    `student_logits` (positions, vocabulary), `targets` (positions,). Divergences are taken at
    `temperature` and times its square, which keeps gradients comparable across temperatures
    (Hinton et al. 2015, section 2); the cross-entropy at 1. Without a teacher it is the
    cross-entropy alone, with all of the weight.

    Raises:
        ConfigError: the vocabularies differ.
        DataError: a teacher's number is not finite.
    """
    _check_vocabularies(student_logits, teaching)
    total = _wide(student_logits).new_zeros(())
    for begin in range(0, len(targets), CHUNK):
        part = slice(begin, begin + CHUNK)
        total = total + checkpoint(
            _blend, student_logits[part], _part_of_output(teaching, part), targets[part], params,
            use_reentrant=False,
        )  # fmt: skip
    return total


def _blend(
    logits: Tensor, teaching: TeacherOutput | None, targets: Tensor, params: ObjectiveParams
) -> Tensor:
    gold = cross_entropy(_wide(logits), targets, reduction="sum")
    if teaching is None:
        return gold
    student, teacher = outcomes(logits, teaching, temperature=params.temperature)
    blend = torch.zeros_like(gold)
    if params.forward_kl:
        blend = blend + params.forward_kl * forward_kl(student, teacher).sum()
    if params.reverse_kl:
        blend = blend + params.reverse_kl * reverse_kl(student, teacher).sum()
    if params.jensen_shannon:
        found = jensen_shannon(student, teacher, weight=params.jensen_shannon_weight)
        blend = blend + params.jensen_shannon * found.sum()
    return blend * params.temperature**2 + params.cross_entropy * gold


def outcomes(
    student_logits: Tensor, teaching: TeacherOutput, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return student's and teacher's log-probabilities over the same outcomes.

    Both are (positions, outcomes). A `Likeliest` has its own temperature, which must be this one.
    """
    student = log_softmax(_wide(student_logits) / temperature, dim=-1)
    if isinstance(teaching, Tensor):
        return student, log_softmax(_wide(teaching) / temperature, dim=-1)
    known = student.gather(-1, teaching.token_ids)
    # What is left of one, away from where the logarithm has no value.
    left = -torch.expm1(known.logsumexp(-1, keepdim=True).clamp(max=-1e-7))
    teacher = torch.cat([teaching.log_probs, teaching.log_rest[:, None]], -1)
    return torch.cat([known, left.log()], -1), teacher


def likeliest(teacher_logits: Tensor, count: int, *, temperature: float) -> Likeliest:
    """Return the `count` likeliest tokens at each position, and the mass of the rest."""
    log_probs = log_softmax(_wide(teacher_logits) / temperature, dim=-1)
    top = log_probs.topk(count, dim=-1)
    rest = log_probs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    return Likeliest(top.indices, top.values, rest)


def _wide(logits: Tensor) -> Tensor:
    """Return logits in no less than float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _expected(weights: Tensor, values: Tensor) -> Tensor:
    """Return the mean of values under log-probabilities; what has no mass counts nothing."""
    mass = weights.exp()
    return torch.where(mass > 0, mass * values, 0.0).sum(-1)


def _part_of_output(teaching: TeacherOutput | None, part: slice) -> TeacherOutput | None:
    if isinstance(teaching, Likeliest):
        return Likeliest(
            teaching.token_ids[part], teaching.log_probs[part], teaching.log_rest[part]
        )
    return None if teaching is None else teaching[part]


def _check_vocabularies(student_logits: Tensor, teaching: TeacherOutput | None) -> None:
    if isinstance(teaching, Tensor) and student_logits.shape != teaching.shape:
        raise ConfigError(
            f"student logits are {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teaching.shape)}; one distribution cannot be compared with the other",
            "choose a student with the teacher's tokenizer",
        )
    told = teaching.log_probs if isinstance(teaching, Likeliest) else teaching
    if told is not None:
        check_finite(told, "logits")


def check_finite(told: Tensor, what: str) -> None:
    """Check that a teacher's numbers can be learned from.

    Raises:
        DataError: one of them is not finite.
    """
    if not bool(told.isfinite().all()):
        raise DataError(
            f"the teacher's {what} hold NaN or infinities; nothing can be learned from them",
            "look at the adapter: run finetuning again with a lower learning rate, or in float32",
        )


def distillation_loss(
    signal: TeacherSignal | None, objective: ObjectiveParams, width: int
) -> SummedLoss:
    """Return the loss of a student: the teacher's divergences and the gold tokens, blended.

    Logits count up to `width`. Without a signal, or without a divergence, the gold tokens alone
    are learned: that is a control's loss.
    """

    def loss(student: nn.Module, pack: Pack) -> Tensor:
        told = signal(pack) if signal is not None and objective.divergence else None
        return blended_loss(packed_logits(student, pack)[:, :width], told, pack.targets, objective)

    return loss
