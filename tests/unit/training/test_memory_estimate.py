"""The memory that a training is said to take is what it takes."""

import json
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.sequences.attention import use_packed_attention
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Pack, build_pack
from tasks.stage.errors import ConfigError
from tasks.training.memory_estimate import MemoryEstimate, estimate_memory, require_memory
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples

SHAPES = [(4, 0, 768, 0), (8, 1, 256, 0), (16, 0, 512, 0), (8, 0, 512, 1)]
# In a process of its own, whose peak is then a training's. Writing 5 sets the peak back.
MEASURED = """
import ctypes, gc, json, sys, tempfile, torch
from pathlib import Path
from tasks.models.quantization import import_kernels
import_kernels()  # before peft, which would import torch's compiler with them
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from tasks.sequences.attention import use_packed_attention
from tasks.training.batches import make_batches
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.training.memory_estimate import estimate_memory
from tests.benchmarks._memory import most_megabytes
from tests.unit.sequences.test_packing import examples, read_yaml_training

def measure(layers, trained, tokens, quantized):
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=704, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8))
    use_packed_attention(model)
    for name, weight in model.named_parameters():
        weight.requires_grad_(bool(trained) or "mlp.down" in name)
    if quantized:
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=nf4)
        use_packed_attention(model)
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    params = read_yaml_training().model_copy(update={"batch_examples": 40})
    batches = make_batches(examples(80), params, max_tokens=tokens)
    packs = [pack for batch in batches for pack in batch.packs]
    estimate = estimate_memory(model, packs, summed_cross_entropy, torch.device("cpu"))
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned)
    Path("/proc/self/clear_refs").write_text("5")
    begun = most_megabytes()
    for pack in [packs[0], max(packs, key=lambda pack: pack.tokens)]:
        summed_cross_entropy(model, pack).backward()
        optimizer.step()
        optimizer.zero_grad()
    most = most_megabytes()
    return estimate.total, most * 1e6, estimate.growth, (most - begun) * 1e6

torch.set_num_threads(1)
for shape in json.loads(sys.argv[1]):
    print(json.dumps(measure(*shape)), flush=True)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
"""


@pytest.mark.slow
def test_the_estimate_is_within_a_quarter_of_the_peak() -> None:
    """Of few layers and many, with few weights that learn or all, of float weights and of NF4."""
    command = [sys.executable, "-c", MEASURED, json.dumps(SHAPES)]
    # What is freed leaves the process at once, so that the peak is what was in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = dict(zip(SHAPES, map(json.loads, done.stdout.splitlines()), strict=True))
    for shape, (estimated, measured, growth, grown) in found.items():
        assert estimated == pytest.approx(measured, rel=0.25), shape
        # Gradients and activations, which are counted both, are never whole at the same time.
        assert growth == pytest.approx(grown, rel=0.3), shape


class Marked(torch.autograd.Function):
    """A node of the graph that somebody can watch for."""

    @staticmethod
    def forward(context: Any, value: Tensor, marker: object) -> Tensor:
        context.marker = marker
        return value.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def test_nothing_of_the_trial_stays_in_memory(tiny: Tiny) -> None:
    """A node that saves its own output, as the exponential does, once kept all graphs for ever."""
    model = make("llama", tiny).model
    use_packed_attention(model)
    seen: list[weakref.ref[Any]] = []

    def loss(module: nn.Module, pack: Pack) -> Tensor:
        marker = type("Marker", (), {})()
        seen.append(weakref.ref(marker))
        marked: Tensor = Marked.apply(summed_cross_entropy(module, pack) / 1e3, marker)
        return marked.exp()

    packs = [build_pack(examples(count)) for count in (3, 5)]
    estimate_memory(model, packs, loss, torch.device("cpu"))
    assert len(seen) == 2
    assert [reference() for reference in seen] == [None, None]


@pytest.mark.parametrize(
    ("optimizer", "activations", "remedy"),
    [(0, 10**15, "micro_batch_tokens"), (10**15, 0, "lower rank")],
)
def test_what_does_not_fit_is_refused_with_the_dial_to_turn(
    optimizer: int, activations: int, remedy: str
) -> None:
    estimate = MemoryEstimate(10**9, optimizer, activations)
    with pytest.raises(ConfigError, match="are left on cpu") as refused:
        require_memory(estimate, torch.device("cpu"), activations_remedy="lower micro_batch_tokens")
    assert remedy in refused.value.remedy
