"""QLoRA's base is what is served, and an adapter's bytes depend on its training alone."""

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from tasks.finetuning.adapter import add_adapter, load_for_training, save_adapter
from tasks.finetuning.params import FinetuningParams
from tasks.lm.attention import use_packed_attention
from tasks.lm.conversion import ModelManifest
from tasks.lm.losses import summed_cross_entropy
from tasks.lm.models import LanguageModel, check_adapter, decoder_linears, load_base
from tasks.lm.packing import build_pack
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_manifest
from tasks.stage.params import read_yaml
from tests.unit.conftest import Tiny
from tests.unit.test_packing import examples

PARAMS = FinetuningParams.model_validate(read_yaml(Path("params/finetuning.yaml")))
CPU = torch.device("cpu")


def quantized(tiny: Tiny, *, dequantized: bool = False) -> LanguageModel:
    return load_for_training(PARAMS, tiny.base, tiny.store, CPU, dequantized=dequantized)


def test_a_base_held_dequantised_gives_the_same_losses_and_gradients(tiny: Tiny) -> None:
    found = []
    for dequantized in (False, True):
        base = quantized(tiny, dequantized=dequantized)
        model = add_adapter(base, PARAMS)
        assert dequantized != any(isinstance(part, Linear4bit) for part in model.modules())
        use_packed_attention(base.model)
        loss = summed_cross_entropy(model, build_pack(examples()))
        loss.backward()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        found.append((loss, [weight.grad for weight in trained]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_served_base_is_the_nf4_base_that_was_trained_on(tiny: Tiny) -> None:
    trained = quantized(tiny).model
    served = load_base(tiny.base, tiny.store, numeric_form="nf4_dequantized", device=CPU).model
    expected = dict(decoder_linears(served))
    linears = decoder_linears(trained)
    assert len(linears) == len(expected) == 14
    for name, linear in linears:
        weight = dequantize_4bit(linear.weight.data, linear.weight.quant_state)
        assert torch.equal(weight, expected[name].weight.data), name


def test_only_the_adapter_is_trained(tiny: Tiny) -> None:
    model = add_adapter(quantized(tiny), PARAMS)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 14
    assert all("lora_" in name for name in trained)


def test_an_adapter_folder_names_no_machine_and_has_sorted_targets(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = add_adapter(quantized(tiny), PARAMS)
    save_adapter(model, tiny.base, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert str(tiny.store) not in (tmp_path / "adapter_config.json").read_text()


def test_an_adapter_of_another_base_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = add_adapter(quantized(tiny), PARAMS)
    save_adapter(model, tiny.base, tmp_path)
    write_manifest(tmp_path)
    check_adapter(tmp_path, ModelManifest.read(tiny.base).digest)
    with pytest.raises(ConfigError, match="was trained on the base"):
        check_adapter(tmp_path, "0" * 64)
