"""What a student learns from: its teacher's distributions and the gold tokens."""

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from tasks.stage.errors import ConfigError


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) at each supervised position, in nats x temperature^2; (positions,).

    Logits are (positions, vocabulary) and finite. The square keeps gradients comparable across
    temperatures (Hinton et al. 2015, arXiv:1503.02531, section 2). Zero where both models agree.

    Raises:
        ConfigError: the vocabularies differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ConfigError(
            f"student logits are {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)}; one distribution cannot be compared with the other",
            "choose a student with the teacher's tokenizer",
        )
    student = log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = log_softmax(teacher_logits.float() / temperature, dim=-1)
    divergence = (teacher.exp() * (teacher - student)).sum(-1)
    return divergence * temperature**2


def blended_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    kl_weight: float,
) -> Tensor:
    """`kl_weight` KL + (1 - `kl_weight`) cross-entropy, summed over the positions; a scalar."""
    divergence = forward_kl(student_logits, teacher_logits, temperature=temperature).sum()
    gold = cross_entropy(student_logits.float(), targets, reduction="sum")
    return kl_weight * divergence + (1 - kl_weight) * gold
