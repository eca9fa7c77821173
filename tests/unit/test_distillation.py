"""The objective is its definition, and a pruned student is a model of its own."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.distillation.objective import blended_loss, forward_kl
from tasks.distillation.pruning import block_influence, choose_layers, prune
from tasks.lm.attention import use_packed_attention
from tasks.lm.packing import build_pack
from tasks.stage.errors import ConfigError
from tests.unit.conftest import Tiny
from tests.unit.test_generation import make
from tests.unit.test_packing import examples


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_of_equal_models_is_zero(temperature: float) -> None:
    logits = torch.randn(5, 11)
    zeros = torch.zeros(5)
    found = forward_kl(logits, logits + 3.0, temperature=temperature)
    torch.testing.assert_close(found, zeros, atol=1e-5, rtol=0)


def test_the_divergence_is_right_by_hand() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    student = torch.log(torch.tensor([[0.25, 0.5, 0.25]]))
    found = forward_kl(student, teacher, temperature=1.0).item()
    assert found == pytest.approx(0.25 * math.log(2))


def test_gradients_agree_with_finite_differences() -> None:
    teacher = torch.randn(3, 6, dtype=torch.float64)
    student = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, 5])

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return blended_loss(logits, teacher, targets, temperature=2.0, kl_weight=0.7)

    # The loss computes in float32, so steps are large and the tolerance is loose.
    assert torch.autograd.gradcheck(loss, (student,), eps=1e-2, atol=2e-2, rtol=2e-2)


def test_vocabularies_that_differ_are_refused_with_both_sizes() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 5\).*\(2, 6\)"):
        forward_kl(torch.zeros(2, 5), torch.zeros(2, 6), temperature=1.0)


def test_the_most_influential_layers_stay_in_order() -> None:
    assert choose_layers([0.5, 0.1, 0.3, 0.2, 0.9], 3) == [0, 2, 4]


@pytest.mark.parametrize("count", [3, 4])
def test_a_student_as_deep_as_its_teacher_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="has 3 layers"):
        choose_layers([0.1, 0.2, 0.3], count)


def test_a_layer_that_does_nothing_has_no_influence(tiny: Tiny) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    idle = model.model.layers[1]
    idle.self_attn.o_proj.weight.data.zero_()
    idle.mlp.down_proj.weight.data.zero_()
    influence = block_influence(model, [build_pack(examples())])
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert min(influence[0], influence[2]) > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gemma"])
def test_a_pruned_student_loads_by_itself_and_answers_alike(
    architecture: str, tiny: Tiny, tmp_path: Path
) -> None:
    student = prune(make(architecture, tiny).model, [0, 2])
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=ids).logits, student(input_ids=ids, use_cache=False).logits
        )
    assert loaded.config.num_hidden_layers == 2
