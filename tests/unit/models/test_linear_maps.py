"""What is quantised and adapted is found by what layers compute, and its share is told as it is."""

from pathlib import Path

import pytest
import torch
from accelerate.utils import set_seed
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tasks.finetuning.adapter import adapter_targets, make_trainable
from tasks.models.linear_maps import (
    Targets,
    check_known,
    decoder_share,
    every_target,
    fused_experts,
    read_shares,
    share_text,
)
from tasks.stage.errors import ConfigError
from tests.builders.families import FAMILIES
from tests.unit.conftest import Tiny
from tests.unit.finetuning.test_finetuning import PARAMS, loaded

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2,
    "pad_token_id": 0,
}  # fmt: skip


def of_kind(architecture: str, **changes: object) -> PreTrainedModel:
    config = AutoConfig.for_model(architecture, **(SIZES | changes))
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def test_a_llama_shape_is_adapted_on_its_seven_layers_with_the_same_random_numbers(
    tiny: Tiny,
) -> None:
    base = loaded(tiny)
    assert adapter_targets(base.model, PARAMS) == Targets(tuple(LLAMA), ())
    made = make_trainable(base, PARAMS)
    after = torch.get_rng_state()
    config = made.peft_config["default"]  # type: ignore[union-attr, operator, index]
    assert config.target_parameters is None
    set_seed(PARAMS.seed)
    plain = get_peft_model(
        loaded(tiny).model,
        LoraConfig(
            r=PARAMS.rank, lora_alpha=PARAMS.alpha, lora_dropout=PARAMS.dropout,
            target_modules=LLAMA, task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), after)
    expected = {name: one for name, one in plain.named_parameters() if "lora_" in name}
    found = {name: one for name, one in made.named_parameters() if "lora_" in name}
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize(
    ("architecture", "changes", "names"),
    [
        ("llama", {}, LLAMA),
        ("llama", {"tie_word_embeddings": True}, LLAMA),
        (
            "gpt2",
            {"n_embd": 32, "n_layer": 2, "n_head": 4},
            ["c_attn", "c_fc", "c_proj"],
        ),
        ("gpt_neox", {}, ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),
        ("mixtral", {}, ["down_proj", "gate_up_proj", *ATTENTION]),
        # Its router derives from a linear layer and returns three tensors.
        ("phimoe", {}, ["down_proj", "gate_up_proj", *ATTENTION]),
        ("gpt_oss", {"head_dim": 8}, ["down_proj", "gate_up_proj", *ATTENTION]),
        # Its experts' weights are called `weight`, so they go by their modules' names.
        ("jetmoe", {"kv_channels": 8}, ["input_linear", "kv_proj", "layer", "output_linear"]),
    ],
)
def test_linear_maps_are_found_whatever_a_family_calls_them(
    architecture: str, changes: dict[str, object], names: list[str]
) -> None:
    model = of_kind(architecture, **changes)
    assert every_target(model).names == sorted(names)
    check_known(model)
    assert decoder_share(model, every_target(model)) > 0.9


def test_experts_are_most_of_a_mixture_and_are_counted() -> None:
    model = of_kind("mixtral", num_local_experts=8, intermediate_size=256)
    assert {name.split(".")[-1] for name, _ in fused_experts(model)} == {
        "down_proj",
        "gate_up_proj",
    }
    assert decoder_share(model, Targets(tuple(ATTENTION), ())) < 0.1


@pytest.mark.parametrize("architecture", ["xlnet", "falcon"])
def test_a_base_of_other_matrices_is_refused_with_their_names(architecture: str) -> None:
    changes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    model = of_kind(architecture, **(changes if architecture == "xlnet" else {}))
    with pytest.raises(ConfigError, match="can be neither quantised nor adapted") as caught:
        check_known(model)
    part = "rel_attn.q" if architecture == "xlnet" else "self_attention.query_key_value.weight"
    assert part in caught.value.message
    with pytest.raises(ConfigError):
        adapter_targets(model, PARAMS)


def test_a_share_that_is_not_all_is_never_told_as_all() -> None:
    assert share_text(1.0) == "100.0%"
    assert share_text(0.99999) == "99.9%"
    assert share_text(0.0561) == "5.6%"


def test_shares_are_read_from_a_config_and_what_was_trained(tmp_path: Path) -> None:
    base = FAMILIES["mixtral"].write(tmp_path / "base")
    adapter = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    linears = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    names = {name.split(".")[-1] for name in linears} - {"lm_head"}
    get_peft_model(model, LoraConfig(target_modules=sorted(names))).save_pretrained(adapter)
    found = read_shares(base, adapter, "nf4_dequantized")
    assert found.quantised > 0.95
    assert found.adapted < 0.15
    whole = read_shares(base, base, "float")
    assert (whole.quantised, whole.adapted) == (0.0, 1.0)
