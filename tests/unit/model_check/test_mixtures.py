"""Mixtures beyond the look-alikes: whatever holds their experts, they are served as trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.finetuning.adapter import adapter_targets, make_trainable
from tasks.model_check.memory import check_memory
from tasks.model_check.trial import run_trial
from tasks.models.linear_maps import decoder_share, every_target, fused_experts, target_weights
from tasks.models.loading import LanguageModel
from tasks.stage.errors import ConfigError
from tests.builders.families import FAMILIES
from tests.unit.model_check.conftest import night_params

pytestmark = pytest.mark.slow

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "vocab_size": 488,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "num_experts_per_tok": 2,
}  # fmt: skip
LOCAL = {"num_local_experts": 4}
LATENT = {
    "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 2,
    "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
# Experts in rows and in columns, with biases, of other names and counts; routers of several kinds.
MIXTURES: dict[str, dict[str, Any]] = {
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "deepseek_v3": LATENT,
    "ernie4_5_moe": {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "head_dim": 8,
    },
    "gpt_oss": LOCAL | {"head_dim": 8, "sliding_window": 512},
    "granitemoe": LOCAL,
    "jetmoe": LOCAL | {"kv_channels": 8},
    "llama4_text": LOCAL | {"head_dim": 8, "intermediate_size_mlp": 64},
    "olmoe": {"num_experts": 4},
    "phimoe": LOCAL | {"sliding_window": None},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32,
                  "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1},
}  # fmt: skip


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixture_is_nearly_whole_quantised_and_adapted_and_served_as_trained(
    architecture: str, tmp_path: Path
) -> None:
    config = AutoConfig.for_model(architecture, **(SMALL | MIXTURES[architecture]))
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    assert fused_experts(model)
    assert decoder_share(model, every_target(model)) > 0.95
    model.save_pretrained(tmp_path / "model")
    params = night_params()
    trial = run_trial(
        tmp_path / "model",
        FAMILIES["qwen2"].tokenizer(),
        params.finetuning,
        numeric_form=params.models.numeric_form,
        dequantized=params.compute.dequantized_base,
        fits=False,
        shares=False,
    )
    assert trial.trained.fault is None
    assert trial.served.fault is None


def adapted(model: Any) -> set[str]:
    """What peft's layers stand on, by the names that the weights had before."""
    found = set()
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            weight = getattr(layer, "parameter_name", None)
            found.add(plain if weight is None else f"{plain}.{weight}")
    return found


@pytest.mark.parametrize("architecture", MIXTURES)
def test_what_is_told_to_be_adapted_is_what_peft_adapts(architecture: str) -> None:
    params = night_params().finetuning
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(architecture, **(SMALL | MIXTURES[architecture]))
    )
    told = target_weights(model, adapter_targets(model, params))
    share = decoder_share(model, adapter_targets(model, params))
    trainable: Any = make_trainable(LanguageModel(model, None, ""), params)  # type: ignore[arg-type]
    assert adapted(trainable) == set(told)
    # peft takes the names of these shapes' shared experts for those of routed ones.
    assert (share < 0.9) == (architecture in ("deepseek_v3", "ernie4_5_moe"))
    assert trainable.peft_config["default"].rank_pattern == {}


def test_a_layer_that_peft_takes_for_experts_is_refused_as_a_target() -> None:
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("deepseek_v3", **(SMALL | LATENT))
    )
    params = night_params(finetuning__targets=["o_proj", "gate_proj"]).finetuning
    with pytest.raises(ConfigError, match="gate_proj, which peft takes for experts' weights"):
        adapter_targets(model, params)


def test_memory_counts_experts_in_full_and_the_copy_that_an_adapter_is_added_to() -> None:
    params = night_params(compute__dequantized_base=False)
    shape = SMALL | LOCAL | {"hidden_size": 512, "intermediate_size": 1024, "vocab_size": 512}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **shape))
    experts = 4 * sum(weight.numel() for _, weight in fused_experts(model))
    attention = params.finetuning.model_copy(update={"targets": ["q_proj"]})
    weights = []
    for finetuning in (attention, params.finetuning):
        told = check_memory(model, finetuning, "nf4_dequantized", params.compute)
        size, unit = told.partition("(")[2].split()[:2]
        weights.append(float(size) * {"MB": 1e6, "GB": 1e9}[unit])
    assert weights[0] > experts
    assert weights[1] - weights[0] == pytest.approx(experts, rel=0.01)
