"""Quantised weights: rounded to what a form holds, held dequantised, computed with in a dtype."""

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.models.linear_maps import decoder_linears, fused_experts

_NF4_BLOCK = 64
_IMPORTING = threading.Lock()


def round_weights(model: PreTrainedModel, numeric_form: str) -> None:
    """Round a model's decoder weights to what a quantised numeric form can hold.

    Each gets new memory: what it was read into may be a file's, and writing there takes as long as
    the rounding.
    """
    with torch.no_grad():
        for _, layer in decoder_linears(model):
            weight = layer.weight.data
            if isinstance(layer, Conv1D):  # whose rows are columns; bitsandbytes turns them, too
                rounded = round_tensor(weight.T.contiguous(), numeric_form).T.contiguous()
            else:
                rounded = round_tensor(weight, numeric_form)
            layer.weight.data = rounded
    round_experts(model, numeric_form)


def round_experts(model: PreTrainedModel, numeric_form: str) -> None:
    """Round the weights of fused experts, each expert's matrix by itself, to what a form can hold.

    bitsandbytes holds none of them quantised, so training computes with the rounded numbers, too.
    """
    with torch.no_grad():
        for _, weight in fused_experts(model):
            rounded = torch.empty_like(weight.data)
            for place, matrix in zip(rounded, weight.data, strict=True):
                place.copy_(round_tensor(matrix, numeric_form))
            weight.data = rounded


def round_tensor(weight: Tensor, numeric_form: str) -> Tensor:
    """Return a matrix rounded to what a quantised numeric form can hold."""
    forms = {"nf4_dequantized": _round_to_nf4, "int8_dequantized": _round_to_int8}
    return forms[numeric_form](weight)


def import_kernels() -> Any:  # an untyped module
    """Return bitsandbytes.functional, imported in a twentieth of its second.

    The rest is torch's compiler: bitsandbytes 0.50 decorates four functions of its default backend
    with torch.compile, which loads it at once. They stand in where a device lacks a kernel of its
    own, which for what is done here neither a CPU nor a CUDA device does; they are not compiled
    then.
    """
    if "bitsandbytes" not in sys.modules:
        with _IMPORTING:
            own = torch.compile
            torch.compile = _as_it_is  # type: ignore[assignment]
            try:
                import_module("bitsandbytes")
            finally:
                torch.compile = own
    return import_module("bitsandbytes.functional")


def _as_it_is(function: Any = None, **_: Any) -> Any:
    """Return a decorator that changes nothing, with and without arguments."""

    def decorate(decorated: Callable[..., Any]) -> Callable[..., Any]:
        return decorated

    return decorate if function is None else function


def _round_to_nf4(weight: Tensor) -> Tensor:
    if weight.device.type == "cpu" and weight.numel() % _NF4_BLOCK == 0:
        return _round_to_nf4_by_comparing(weight)
    bitsandbytes = import_kernels()
    quantized, state = bitsandbytes.quantize_4bit(
        weight, blocksize=_NF4_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    found: Tensor = bitsandbytes.dequantize_4bit(quantized, state)
    return found


def _round_to_nf4_by_comparing(weight: Tensor) -> Tensor:
    """Return what bitsandbytes makes of a weight on a CPU, bit for bit, in a third of the time.

    Its search for each number's place among fifteen bounds is a loop without vector instructions;
    comparing all numbers with one bound after another is not.
    """
    bitsandbytes = import_kernels()
    values = bitsandbytes.get_4bit_type("nf4", device=weight.device)
    blocks = weight.float().reshape(-1, _NF4_BLOCK)
    largest = torch.maximum(blocks.amax(-1), -blocks.amin(-1))
    scaled = torch.clamp(blocks * (1.0 / largest.clamp(min=1e-38))[:, None], -1, 1).flatten()
    places = torch.zeros_like(scaled, dtype=torch.uint8)
    for bound in ((values[:-1] + values[1:]) / 2).tolist():
        places += scaled > bound
    offset = largest.mean()
    scales, second = bitsandbytes.quantize_blockwise(largest - offset, blocksize=256)
    state = bitsandbytes.QuantState(
        absmax=scales,
        shape=weight.shape,
        dtype=weight.dtype,
        blocksize=_NF4_BLOCK,
        code=values,
        quant_type="nf4",
        offset=offset,
        state2=second,
    )
    packed = ((places[::2] << 4) | places[1::2])[:, None]
    found: Tensor = bitsandbytes.dequantize_4bit(packed, state)
    return found


def _round_to_int8(weight: Tensor) -> Tensor:
    # bitsandbytes' int8 layers hold what this makes of float16.
    quantized, scales, _ = import_kernels().int8_vectorwise_quant(weight.half())
    return _dequantize_int8(quantized, scales).to(weight.dtype)


def _dequantize_int8(quantized: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 weights of int8 rows, each with the magnitude that 127 stands for."""
    return quantized.float() * (scales.float().view(-1, 1) / 127.0)


def hold_dequantized(model: PreTrainedModel) -> None:
    """Replace a model's quantised layers, in place, by frozen float ones of the same weights.

    What is saved is dequantising every weight twice a step.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            weight = dequantize_4bit(layer.weight.data, layer.quant_state)
        elif isinstance(layer, Linear8bitLt):
            scales: Any = layer.weight
            weight = _dequantize_int8(layer.weight.data, scales.SCB).to(model.dtype)
        else:
            continue
        held = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        held.weight = nn.Parameter(weight, requires_grad=False)
        held.bias = layer.bias
        model.set_submodule(name, held)


def compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let a quantised model compute in a dtype, its quantised weights as they are.

    All other weights become copies: as views into the mapped file they would keep all of it.

    On CPUs with AVX512_BF16 bitsandbytes 0.50 repacks a layer's weights at its first pass that
    takes no gradient and from then on computes in bfloat16, by a kernel without a backward pass
    (its `Linear4bit.forward`): a training that was validated once would learn nothing below it.
    So that kernel is switched off.
    """
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Params4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            quantized: Any = module.weight
            quantized.quant_state.dtype = dtype
            module.support_avx512bf16_for_cpu = False
    psutil.heap_trim()  # what quantising freed: for a small base more than its weights
    for weight in model.parameters():
        if not isinstance(weight, (Params4bit, Int8Params)):
            weight.data = weight.data.to(dtype, copy=True)
    model.config.dtype = dtype
