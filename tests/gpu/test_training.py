"""QLoRA on a GPU: NF4 layers, bfloat16, the paged optimizer, the same losses as on the CPU."""

from pathlib import Path

import pytest
import torch

from tasks.finetuning.adapter import make_trainable
from tasks.models.loading import load_for_training
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch
from tasks.sequences.packing_check import packs_exactly
from tasks.training.batches import make_batches
from tasks.training.loop import train
from tasks.training.trainer import training_arguments, validation_loss
from tests.unit.conftest import Tiny
from tests.unit.finetuning.test_finetuning import PARAMS
from tests.unit.sequences.test_packing import examples

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def batches(count: int) -> list[Batch]:
    return make_batches(examples(count), PARAMS, max_tokens=256)


def loss_on(device: str, tiny: Tiny, dtype: str) -> float:
    base = load_for_training(
        tiny.base,
        tiny.store,
        torch.device(device),
        numeric_form="nf4_dequantized",
        dtype=dtype,
        dequantized=False,
    )
    assert packs_exactly(base.model)
    return validation_loss(base.model, batches(6), summed_cross_entropy)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 2e-2)])
def test_the_loss_is_that_of_the_cpu(dtype: str, tolerance: float, tiny: Tiny) -> None:
    expected = loss_on("cpu", tiny, "float32")
    assert loss_on("cuda", tiny, dtype) == pytest.approx(expected, rel=tolerance)


def test_a_training_on_nf4_in_bfloat16_learns(tiny: Tiny, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"dtype": "bfloat16", "learning_rate": 1e-2, "epochs": 3})
    assert (
        training_arguments(params, tmp_path, 3, torch.device("cuda")).optim == "paged_adamw_32bit"
    )
    base = load_for_training(
        tiny.base,
        tiny.store,
        torch.device("cuda"),
        numeric_form="nf4_dequantized",
        dtype="bfloat16",
        dequantized=False,
    )
    model = make_trainable(base, params)
    assert packs_exactly(base.model)
    learned = batches(8)
    result = train(
        model, learned, learned, summed_cross_entropy, params, scratch=tmp_path, identity="gpu"
    )
    assert result.best_validation_loss < result.initial_validation_loss
