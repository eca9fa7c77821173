"""Rounding to NF4 is bitsandbytes' own, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tasks.models.linear_maps import decoder_linears, linear_weights
from tasks.models.loading import load_model, quantize_folder
from tasks.models.quantization import hold_dequantized, round_tensor, round_weights
from tests.builders.families import FAMILIES, Family


def by_bitsandbytes(weight: Tensor) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    quantized, state = quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    found: Tensor = dequantize_4bit(quantized, state)
    return found


def weight(kind: str) -> Tensor:
    drawn = torch.randn(48, 96, generator=torch.Generator().manual_seed(5))
    if kind == "heavy-tailed":
        return drawn**5
    if kind == "zeros":
        drawn[:20] = 0
    if kind == "few values":
        return drawn.round()
    if kind == "tiny":
        return drawn * 1e-30
    return drawn


@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "zeros", "few values", "tiny"])
def test_weights_are_rounded_to_the_bits_that_bitsandbytes_makes(kind: str) -> None:
    rounded = round_tensor(weight(kind), "nf4_dequantized")
    assert torch.equal(rounded, by_bitsandbytes(weight(kind)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        "tasks.models.quantization",
        "tasks.finetuning.__main__, tasks.distillation.__main__, transformers.trainer",
    ],
)
def test_kernels_are_imported_without_torchs_compiler(modules: str) -> None:
    """Also where peft and the trainer would import them in their own way."""
    code = f"""
import sys, torch
own = torch.compile
import {modules}
from tasks.models.quantization import import_kernels
assert import_kernels().quantize_4bit is import_kernels().quantize_4bit
assert torch.compile is own
assert "torch._inductor.compile_fx" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_number_on_the_bound_of_two_values_goes_where_bitsandbytes_sends_it() -> None:
    from bitsandbytes.functional import get_4bit_type

    values = get_4bit_type("nf4", device=torch.device("cpu"))
    bounds = (values[:-1] + values[1:]) / 2
    row = torch.cat([values, bounds, torch.zeros(64 - 31)])
    rounded = round_tensor(row[None], "nf4_dequantized")
    assert torch.equal(rounded, by_bitsandbytes(row[None]))


def test_a_weight_that_is_no_whole_number_of_blocks_is_rounded_too() -> None:
    drawn = torch.randn(3, 50, generator=torch.Generator().manual_seed(6))
    assert torch.equal(round_tensor(drawn, "nf4_dequantized"), by_bitsandbytes(drawn))


@pytest.mark.parametrize("form", ["nf4_dequantized", "int8_dequantized"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_family_is_trained_on_the_very_numbers_that_are_served(
    family: Family, form: str, tmp_path: Path
) -> None:
    folder = family.write(tmp_path / "model")
    cpu = torch.device("cpu")
    trained = quantize_folder(folder, numeric_form=form, compute_dtype=torch.float32, device=cpu)
    hold_dequantized(trained)
    served = load_model(folder, cpu)
    plain = {name: weight.clone() for name, weight in linear_weights(served).items()}
    round_weights(served, form)
    rounded = linear_weights(served)
    found = linear_weights(trained)
    assert found.keys() == rounded.keys()
    turned = {name for name, layer in decoder_linears(served) if isinstance(layer, Conv1D)}
    for name, weight in rounded.items():
        assert torch.equal(found[name], weight.T if name in turned else weight), name
        assert not torch.equal(weight, plain[name]), name
