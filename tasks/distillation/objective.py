"""What a student learns from: its teacher's distributions and the gold tokens.

All divergences are sums over outcomes of log-probabilities: the whole vocabulary, or the teacher's
likeliest tokens and one outcome for all others together."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils.checkpoint import checkpoint

from tasks.distillation.params import ObjectiveParams
from tasks.generation.greedy_decoding import generate
from tasks.models.loading import LanguageModel
from tasks.records.text import text_sha256
from tasks.sequences.examples import Example
from tasks.sequences.likelihood import SummedLoss
from tasks.sequences.packing import Pack, packed_logits
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import write_atomically

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


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) at each position, in nats; both are log-probabilities by outcome.

    The student pays for what it leaves out (Hinton et al. 2015, arXiv:1503.02531).
    """
    return _expected(teacher, teacher - student)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher) at each position, in nats; both are log-probabilities by outcome.

    The student pays for what it makes up (MiniLLM, Gu et al. 2023, arXiv:2306.08543).
    """
    return _expected(student, student - teacher)


def jensen_shannon(student: Tensor, teacher: Tensor, *, weight: float) -> Tensor:
    """The generalised Jensen-Shannon divergence at each position, in nats; 0 < `weight` < 1.

    `weight` KL(teacher || m) + (1 - `weight`) KL(student || m), with the mixture m = `weight`
    teacher + (1 - `weight`) student (GKD, Agarwal et al. 2023, arXiv:2306.13649, section 2).
    """
    mixture = torch.logaddexp(teacher + math.log(weight), student + math.log(1 - weight))
    return weight * _expected(teacher, teacher - mixture) + (1 - weight) * _expected(
        student, student - mixture
    )


def blended_loss(
    student_logits: Tensor, teaching: TeacherOutput | None, targets: Tensor, params: ObjectiveParams
) -> Tensor:
    """The blend of divergences and cross-entropy, summed over positions, in nats; a scalar.

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
    """The log-probabilities of student and teacher over the same outcomes, (positions, outcomes).

    A `Likeliest` has its own temperature, which must be this one.
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
    """The `count` likeliest tokens at each position, at a temperature, and the mass of the rest."""
    log_probs = log_softmax(_wide(teacher_logits) / temperature, dim=-1)
    top = log_probs.topk(count, dim=-1)
    rest = log_probs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    return Likeliest(top.indices, top.values, rest)


def _wide(logits: Tensor) -> Tensor:
    """Logits in no less than float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _expected(weights: Tensor, values: Tensor) -> Tensor:
    """The mean of values under log-probabilities; what has no mass counts nothing."""
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
    """That a teacher's numbers can be learned from.

    Raises:
        DataError: one of them is not finite.
    """
    if not bool(told.isfinite().all()):
        raise DataError(
            f"the teacher's {what} hold NaN or infinities; nothing can be learned from them",
            "look at the adapter: run finetuning again with a lower learning rate, or in float32",
        )


LOGGER = logging.getLogger(__name__)

TeacherSignal = Callable[[Pack], TeacherOutput]


def student_loss(teacher: TeacherSignal, objective: ObjectiveParams, width: int) -> SummedLoss:
    """The blend of a teacher's divergences and the gold tokens, over `width` tokens."""

    def loss(student: nn.Module, pack: Pack) -> Tensor:
        teaching = teacher(pack) if objective.divergence else None
        return blended_loss(
            packed_logits(student, pack)[:, :width], teaching, pack.targets, objective
        )

    return loss


def control_loss(objective: ObjectiveParams, width: int) -> SummedLoss:
    """The twin's loss: the gold tokens alone."""

    def loss(twin: nn.Module, pack: Pack) -> Tensor:
        return blended_loss(packed_logits(twin, pack)[:, :width], None, pack.targets, objective)

    return loss


def with_teacher_answers(
    teacher: LanguageModel,
    identity: str,
    examples: Sequence[Example],
    memo: Path,
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[Example]:
    """The examples with the teacher's own greedy answers instead of theirs.

    Source: sequence-level distillation, Kim and Rush 2016, arXiv:1606.07947, with a beam of one.
    Answers lie in a memo below `memo` that `identity` names, which stands for the teacher's weights
    and how it computes; without it only time is lost.
    """
    path = memo / f"answers-{identity[:32]}-{max_new_tokens}.json"
    known: dict[str, list[int]] = {}
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            LOGGER.warning("%s can't be read (%s): every answer is made again", path, error)
    prompts = {_prompt_key(item): item.token_ids[: item.prompt_length] for item in examples}
    new = {key: prompt for key, prompt in prompts.items() if key not in known}
    if new:
        found = generate(
            teacher,
            list(new.values()),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        known |= {key: list(one.token_ids) for key, one in zip(new, found, strict=True)}
        for other in memo.glob("answers-*.json"):
            other.unlink()  # another night's, or this one's with fewer answers
        write_atomically(path, json.dumps(known))
    LOGGER.info("the teacher answered %d prompts, %d of them tonight", len(prompts), len(new))
    end = teacher.tokenizer.eos_token_id
    made = []
    for item in examples:
        answer = known[_prompt_key(item)]
        ended = answer if len(answer) == max_new_tokens else [*answer, end]
        made.append(replace(item, token_ids=(*item.token_ids[: item.prompt_length], *ended)))
    return made


def _prompt_key(example: Example) -> str:
    return text_sha256(*map(str, example.token_ids[: example.prompt_length]))
