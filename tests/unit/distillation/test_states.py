"""What a teacher's last layer gave is computed once, and says the same ever after."""

from typing import Any

import pytest
import torch

from tasks.distillation.pruning import prune
from tasks.distillation.reconstruction import reconstruct
from tasks.distillation.teacher import OnlineTeacher, StateMemory
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.packing import packed_logits
from tests.unit.conftest import Tiny
from tests.unit.distillation.test_teacher import WIDTH, packs
from tests.unit.generation.test_greedy_decoding import ARCHITECTURES, make


@pytest.fixture(params=sorted(ARCHITECTURES))
def teacher(request: pytest.FixtureRequest, tiny: Tiny) -> Any:
    model = make(request.param, tiny).model
    use_packed_attention(model)
    return model.eval()


def passes_of(model: Any) -> list[int]:
    """One entry for every pass through the model's first MLP from now on."""
    passes: list[int] = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_a_wanted_pack_is_computed_once_and_its_logits_stay(teacher: Any) -> None:
    memory, [wanted, other, *_] = StateMemory(), packs(9)
    expected = packed_logits(teacher, wanted)
    memory.want([wanted])
    online, passes = OnlineTeacher(teacher, WIDTH, memory), passes_of(teacher)
    for _ in range(3):
        assert torch.equal(online(wanted), expected[:, :WIDTH])
    assert len(passes) == 1
    for _ in range(2):
        online(other)
    assert len(passes) == 3
    assert all("forward" not in vars(layer) for layer in teacher.model.layers)


def test_a_fit_leaves_the_teachers_states_so_that_learning_computes_none(teacher: Any) -> None:
    memory, learned = StateMemory(), packs(9)
    expected = [packed_logits(teacher, pack) for pack in learned]
    reconstruct(teacher, prune(teacher, [0, 2]), [0, 2], learned, memory)
    passes = passes_of(teacher)
    for pack, logits in zip(learned, expected, strict=True):
        torch.testing.assert_close(
            OnlineTeacher(teacher, WIDTH, memory)(pack), logits[:, :WIDTH], rtol=1e-5, atol=1e-5
        )
    assert not passes
