"""Each divergence is its definition, over all tokens and over a teacher's likeliest ones."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from tasks.distillation import objective
from tasks.distillation.objective import (
    Likeliest,
    blended_loss,
    forward_kl,
    jensen_shannon,
    likeliest,
    outcomes,
    reverse_kl,
)
from tasks.distillation.params import ObjectiveParams
from tasks.stage.errors import ConfigError, DataError

TEACHER = torch.tensor([[0.5, 0.25, 0.25]]).log()
STUDENT = torch.tensor([[0.25, 0.5, 0.25]]).log()
NOTHING = {
    "forward_kl": 0.0,
    "reverse_kl": 0.0,
    "jensen_shannon": 0.0,
    "jensen_shannon_weight": 0.3,
    "cross_entropy": 0.0,
    "temperature": 2.0,
}
PARTS = ("forward_kl", "reverse_kl", "jensen_shannon", "cross_entropy")


def blend(**weights: float) -> ObjectiveParams:
    return ObjectiveParams.model_validate(NOTHING | weights)


def random_logits(positions: int = 5, vocabulary: int = 11, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(positions, vocabulary, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("part", PARTS[:3])
def test_a_divergence_of_equal_models_is_zero(part: str, temperature: float) -> None:
    logits = random_logits()
    params = blend(**{part: 1.0, "temperature": temperature})
    targets = torch.zeros(5, dtype=torch.long)
    for teaching in (logits + 3.0, likeliest(logits, 4, temperature=temperature)):
        assert blended_loss(logits, teaching, targets, params).item() == pytest.approx(0, abs=1e-6)


def test_the_divergences_are_right_by_hand() -> None:
    assert forward_kl(STUDENT, TEACHER).item() == pytest.approx(0.25 * math.log(2))
    assert reverse_kl(STUDENT, TEACHER).item() == pytest.approx(0.25 * math.log(2))
    skewed = torch.tensor([[0.8, 0.1, 0.1]]).log()
    assert forward_kl(STUDENT, skewed).item() == pytest.approx(
        0.8 * math.log(3.2) + 0.1 * math.log(0.2) + 0.1 * math.log(0.4)
    )
    assert reverse_kl(STUDENT, skewed).item() == pytest.approx(
        0.25 * math.log(0.3125) + 0.5 * math.log(5) + 0.25 * math.log(2.5)
    )
    # Half of each: the mixture is 0.375, 0.375, 0.25.
    assert jensen_shannon(STUDENT, TEACHER, weight=0.5).item() == pytest.approx(
        0.5 * math.log(0.5 / 0.375) + 0.25 * math.log(0.25 / 0.375)
    )


def test_a_jensen_shannon_of_little_weight_is_a_kl_of_little_weight() -> None:
    """GKD, section 2: divided by its weight it tends to the forward or the reverse divergence."""
    student, teacher = (log_softmax(random_logits(seed=seed), -1) for seed in (1, 2))
    small = 1e-6
    torch.testing.assert_close(
        jensen_shannon(student, teacher, weight=small) / small,
        forward_kl(student, teacher),
        rtol=1e-3,
        atol=1e-3,
    )
    torch.testing.assert_close(
        jensen_shannon(student, teacher, weight=1 - small) / small,
        reverse_kl(student, teacher),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("count", [None, 3])
def test_gradients_agree_with_finite_differences(part: str, count: int | None) -> None:
    teacher, student = random_logits(4, 7, 1), random_logits(4, 7, 2).requires_grad_()
    targets, params = torch.tensor([0, 4, 5, 6]), blend(**{part: 0.7})
    teaching = teacher if count is None else likeliest(teacher, count, temperature=2.0)

    def loss(logits: Tensor) -> Tensor:
        return blended_loss(logits, teaching, targets, params)

    assert torch.autograd.gradcheck(loss, (student,))


def test_a_blend_is_the_sum_of_its_parts_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher = random_logits(9, 13, 1), random_logits(9, 13, 2)
    targets = torch.arange(9)
    weights = dict(zip(PARTS, (0.4, 0.3, 0.2, 0.1), strict=True))
    expected = sum(
        blended_loss(student, teacher, targets, blend(**{part: weight}))
        for part, weight in weights.items()
    )
    for chunk in (1, 4, 100):
        monkeypatch.setattr(objective, "CHUNK", chunk)
        found = blended_loss(student, teacher, targets, blend(**weights))
        torch.testing.assert_close(found, expected)


def test_the_temperature_softens_and_its_square_is_taken_back() -> None:
    student, teacher, targets = random_logits(seed=1), random_logits(seed=2), torch.arange(5)
    found = blended_loss(student, teacher, targets, blend(forward_kl=1.0, temperature=3.0))
    by_hand = forward_kl(log_softmax(student / 3, -1), log_softmax(teacher / 3, -1)).sum() * 9
    torch.testing.assert_close(found, by_hand)


def test_the_likeliest_tokens_and_the_rest_have_all_of_the_mass() -> None:
    found = likeliest(random_logits(), 4, temperature=2.0)
    mass = found.log_probs.exp().sum(-1) + found.log_rest.exp()
    torch.testing.assert_close(mass, torch.ones(5, dtype=torch.float64))
    student, teacher = outcomes(random_logits(seed=3), found, temperature=2.0)
    for side in (student, teacher):
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(5, dtype=torch.float64))


def test_the_likeliest_tokens_see_less_of_a_divergence_and_more_of_it_the_more_they_are() -> None:
    student, teacher, targets = random_logits(seed=1), random_logits(seed=2), torch.arange(5)
    params = blend(forward_kl=1.0)
    whole = blended_loss(student, teacher, targets, params).item()
    seen = [
        blended_loss(student, likeliest(teacher, count, temperature=2.0), targets, params).item()
        for count in (1, 3, 6, 10)
    ]
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(whole, rel=1e-6)


def test_a_student_that_is_sure_of_the_likeliest_has_finite_gradients() -> None:
    student = torch.zeros(1, 5, requires_grad=True)
    sure = student + torch.tensor([[60.0, 0.0, 0.0, 0.0, 0.0]])
    taught = likeliest(torch.tensor([[9.0, 1.0, 0.0, 0.0, 0.0]]), 2, temperature=2.0)
    for part in PARTS[:3]:
        loss = blended_loss(sure, taught, torch.tensor([0]), blend(**{part: 1.0}))
        [gradient] = torch.autograd.grad(loss, student, retain_graph=True)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_without_a_teacher_it_is_the_cross_entropy() -> None:
    student, targets = random_logits(), torch.arange(5)
    expected = -log_softmax(student, -1)[torch.arange(5), targets].sum()
    for params in (blend(forward_kl=1.0), blend(cross_entropy=0.3)):
        torch.testing.assert_close(blended_loss(student, None, targets, params), expected)


def test_vocabularies_that_differ_are_refused_with_both_sizes() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 5\).*\(2, 6\)"):
        blended_loss(torch.zeros(2, 5), torch.zeros(2, 6), torch.zeros(2), blend(forward_kl=1.0))


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_teacher_that_lost_a_number_is_refused(lost: float) -> None:
    logits = random_logits()
    logits[2, 3] = lost
    spoilt = Likeliest(torch.zeros(5, 1, dtype=torch.long), logits[:, 3:4], torch.zeros(5))
    for teaching in (logits, spoilt):
        with pytest.raises(DataError, match="NaN or infinities"):
            blended_loss(random_logits(), teaching, torch.arange(5), blend(forward_kl=1.0))


def test_an_objective_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="every weight of the objective is 0"):
        blend()
