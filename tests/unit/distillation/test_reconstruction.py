"""A pruned student's layers, fitted by least squares to its teacher's states."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from tasks.distillation.objective import forward_kl
from tasks.distillation.pruning import prune
from tasks.distillation.reconstruction import RIDGE, reconstruct
from tasks.distillation.teacher import StateMemory
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.packing import Pack, build_pack, packed_logits
from tasks.stage.errors import ConfigError, DataError
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples

pytestmark = pytest.mark.slow

LEARNED = [build_pack(examples(count)) for count in range(7, 25)]
HELD_OUT = [build_pack(examples(count)) for count in range(25, 30)]


def models_of(architecture: str, tiny: Tiny, kept: list[int]) -> tuple[Any, Any]:
    """A teacher of three layers and its student, both attending by packs."""
    teacher = make(architecture, tiny).model
    use_packed_attention(teacher)
    return teacher, prune(teacher, kept)


def divergence(teacher: nn.Module, student: nn.Module, packs: list[Pack]) -> float:
    """KL(teacher || student), the mean per learned token in nats."""
    found = []
    with torch.no_grad():
        for pack in packs:
            theirs, ours = (log_softmax(packed_logits(m, pack), -1) for m in (teacher, student))
            found.append(forward_kl(ours, theirs))
    return float(torch.cat(found).mean())


@pytest.mark.parametrize("kept", [[0, 2], [1, 2], [0, 1], [2], [0]])
def test_a_fitted_student_is_nearer_to_its_teacher_on_what_it_never_saw(
    kept: list[int], tiny: Tiny
) -> None:
    teacher, student = models_of("llama", tiny, kept)
    before = divergence(teacher, student, HELD_OUT)
    found = reconstruct(teacher, student, kept, LEARNED, StateMemory())
    assert divergence(teacher, student, HELD_OUT) < 0.9 * before
    assert all(after < first for first, after in zip(found.before, found.after, strict=True))
    assert found.tokens == sum(pack.tokens for pack in LEARNED)


@pytest.mark.parametrize(
    ("kept", "fitted"), [([0, 2], (0, 2)), ([1, 2], (1, 2)), ([0, 1], (1,)), ([2], (2,))]
)
def test_layers_before_the_first_gap_and_all_else_stay(
    kept: list[int], fitted: tuple[int, ...], tiny: Tiny
) -> None:
    teacher, student = models_of("llama", tiny, kept)
    was = {name: weight.clone() for name, weight in student.named_parameters()}
    found = reconstruct(teacher, student, kept, LEARNED, StateMemory())
    assert found.layers == fitted
    changed = {name for name, w in student.named_parameters() if not torch.equal(w, was[name])}
    assert changed == {f"model.layers.{kept.index(n)}.mlp.down_proj.weight" for n in fitted}
    assert all("forward" not in vars(layer) for layer in (*teacher.model.layers,))


def test_the_weight_is_that_of_ridge_regression(tiny: Tiny) -> None:
    teacher, student = models_of("llama", tiny, [0, 1])
    layer = student.model.layers[1]
    read, missing = regression(teacher, layer)
    known = layer.mlp.down_proj.weight.detach().double()
    reconstruct(teacher, student, [0, 1], LEARNED, StateMemory())
    change = layer.mlp.down_proj.weight.detach().double() - known
    # The ridge as further rows of an ordinary least-squares problem, solved by other means.
    strength = np.sqrt(RIDGE * (read**2).sum(0).mean())
    rows = np.vstack([read, strength * np.eye(read.shape[1])])
    answers = np.vstack([missing, np.zeros((read.shape[1], missing.shape[1]))])
    expected = np.linalg.lstsq(rows, answers, rcond=None)[0]
    np.testing.assert_allclose(change.T.numpy(), expected, atol=1e-3 * np.abs(expected).max())


def regression(teacher: Any, layer: nn.Module) -> tuple[Any, Any]:
    """What the last kept layer's `down_proj` reads, and what its output lacks, token by token."""
    states: dict[str, Tensor] = {}
    body = teacher.model
    hooks = [
        body.layers[1].mlp.down_proj.register_forward_pre_hook(
            lambda _, inputs: states.__setitem__("read", inputs[0])
        ),
        body.layers[2].register_forward_pre_hook(
            lambda _, inputs: states.__setitem__("output", inputs[0])
        ),
        body.norm.register_forward_pre_hook(
            lambda _, inputs: states.__setitem__("target", inputs[0])
        ),
    ]
    reads, lacks = [], []
    for pack in LEARNED:
        with torch.no_grad():
            packed_logits(teacher, pack)
        read, output, target = (states[name][0].double() for name in ("read", "output", "target"))
        scale = target.norm(dim=-1, keepdim=True)
        reads.append(read / scale)
        lacks.append((target - output) / scale)
    for hook in hooks:
        hook.remove()
    return torch.cat(reads).numpy(), torch.cat(lacks).numpy()


def test_a_student_that_lacks_nothing_stays_as_it_is(tiny: Tiny) -> None:
    teacher = make("llama", tiny).model
    use_packed_attention(teacher)
    idle = teacher.model.layers[1]
    idle.self_attn.o_proj.weight.data.zero_()
    idle.mlp.down_proj.weight.data.zero_()
    student: Any = prune(teacher, [0, 2])
    was = [weight.clone() for weight in student.parameters()]
    found = reconstruct(teacher, student, [0, 2], LEARNED, StateMemory())
    assert max(found.after) < 1e-10
    for weight, known in zip(student.parameters(), was, strict=True):
        torch.testing.assert_close(weight, known)


@pytest.mark.parametrize("architecture", ["qwen", "gemma"])
def test_a_layer_comes_nearer_or_stays(architecture: str, tiny: Tiny) -> None:
    """Gemma scales what the MLP gives before it is added, so its fit may come no nearer."""
    teacher, student = models_of(architecture, tiny, [0, 2])
    before = divergence(teacher, student, HELD_OUT)
    found = reconstruct(teacher, student, [0, 2], LEARNED, StateMemory())
    assert all(after <= first for first, after in zip(found.before, found.after, strict=True))
    assert divergence(teacher, student, HELD_OUT) <= before


def test_packs_that_hold_one_example_do_too(tiny: Tiny) -> None:
    teacher = make("llama", tiny).model
    student = prune(teacher, [0, 2])
    alone = [build_pack([one]) for one in examples(20)]
    before = divergence(teacher, student, alone)
    reconstruct(teacher, student, [0, 2], alone, StateMemory())
    assert divergence(teacher, student, alone) < before


def test_layers_without_a_down_projection_are_refused(tiny: Tiny) -> None:
    teacher, student = models_of("llama", tiny, [0, 2])
    del student.model.layers[0].mlp.down_proj
    with pytest.raises(ConfigError, match=r"has no linear layer mlp.down_proj"):
        reconstruct(teacher, student, [0, 2], LEARNED[:1], StateMemory())


def test_states_that_are_not_finite_are_refused(tiny: Tiny) -> None:
    teacher, student = models_of("llama", tiny, [0, 2])
    teacher.model.layers[1].mlp.down_proj.weight.data.fill_(torch.inf)
    with pytest.raises(DataError, match="states hold NaN"):
        reconstruct(teacher, student, [0, 2], LEARNED[:1], StateMemory())
