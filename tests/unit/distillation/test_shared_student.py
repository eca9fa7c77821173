"""Teacher and student over one base in memory: what each computes, and what training moves."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.distillation.pruning import prune
from tasks.distillation.students import share_student, share_teacher
from tasks.models.loading import ADAPTER_WEIGHTS, load_adapted, load_base, load_for_training
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import build_pack, packed_logits
from tasks.stage.errors import ConfigError
from tests.unit.conftest import Tiny
from tests.unit.sequences.test_packing import examples

CPU = torch.device("cpu")
KEPT = [1]


def base_of(tiny: Tiny, form: str, *, held: bool = False):  # type: ignore[no-untyped-def]
    if form == "float":
        return load_base(tiny.base, tiny.store, numeric_form="float", device=CPU).model
    return load_for_training(
        tiny.base, tiny.store, CPU, numeric_form=form, dtype="float32", dequantized=held
    ).model


@pytest.mark.parametrize(
    ("form", "held"),
    [
        ("float", False),
        ("nf4_dequantized", False),
        ("nf4_dequantized", True),
        ("int8_dequantized", False),
        ("int8_dequantized", True),
    ],
)
def test_teacher_and_student_begin_as_the_merged_teacher_and_its_layers(
    form: str, held: bool, tiny: Tiny
) -> None:
    merged = load_adapted(tiny.base, tiny.store, tiny.adapter, numeric_form=form, device=CPU).model
    expected = [merged, prune(merged, KEPT)]
    base = base_of(tiny, form, held=held)
    use_packed_attention(base)
    pack = build_pack(examples())
    # bitsandbytes' own int8 layers round activations too.
    apart = 2e-2 if (form, held) == ("int8_dequantized", False) else 1e-3
    found = share_teacher(base, tiny.adapter), share_student(base, tiny.adapter, KEPT)
    for model, other in zip(found, expected, strict=True):
        use_packed_attention(other)
        with torch.no_grad():
            torch.testing.assert_close(
                packed_logits(model, pack), packed_logits(other, pack), rtol=1e-3, atol=apart
            )


def test_the_base_is_in_memory_once_and_only_the_students_adapter_learns(tiny: Tiny) -> None:
    base = base_of(tiny, "nf4_dequantized")
    use_packed_attention(base)
    teacher = share_teacher(base, tiny.adapter)
    student = share_student(base, tiny.adapter, KEPT)
    pack = build_pack(examples())
    frozen = {name: weight.clone() for name, weight in teacher.named_parameters()}
    before = teacher_says(teacher, pack)
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    own = {weight.data_ptr() for weight in trained}
    shared = {w.data_ptr() for w in student.parameters() if w.data_ptr() not in own}
    assert shared < {weight.data_ptr() for weight in teacher.parameters()}
    assert len(trained) == 2 * 2  # A and B of two linear layers of the one layer kept
    assert not any(weight.requires_grad for weight in teacher.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(3):
        loss = summed_cross_entropy(student, pack)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    torch.testing.assert_close(teacher_says(teacher, pack), before, rtol=0, atol=0)
    for name, weight in teacher.named_parameters():
        assert torch.equal(weight, frozen[name]), name


def teacher_says(teacher: torch.nn.Module, pack) -> Tensor:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        return packed_logits(teacher, pack)


def test_an_adapter_that_lacks_a_layer_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(tiny.adapter, folder)
    weights = load_file(folder / ADAPTER_WEIGHTS)
    save_file({k: v for k, v in weights.items() if ".layers.1." not in k}, folder / ADAPTER_WEIGHTS)
    with pytest.raises(ConfigError, match="does not fit a student of these layers: 4 weights"):
        share_student(base_of(tiny, "float"), folder, KEPT)


def test_an_adapter_of_another_kind_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(tiny.adapter, folder)
    IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(str(folder))
    with pytest.raises(ConfigError, match="is no LoRA"):
        share_student(base_of(tiny, "float"), folder, KEPT)
