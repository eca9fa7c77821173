"""Batched greedy generation answers as the reference does, one prompt at a time."""

import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tasks.lm.conversion import ModelManifest
from tasks.lm.generation import generate
from tasks.lm.models import LanguageModel, load_tokenizer
from tests.unit.conftest import Tiny

SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
ARCHITECTURES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen": (Qwen3ForCausalLM, Qwen3Config),
    "gemma": (Gemma3ForCausalLM, Gemma3TextConfig),
}


def make(architecture: str, tiny: Tiny) -> LanguageModel:
    tokenizer = load_tokenizer(ModelManifest.read(tiny.base).folder(tiny.store))
    model_class, config_class = ARCHITECTURES[architecture]
    torch.manual_seed(5)
    extra = {"sliding_window": 16} if architecture == "gemma" else {}
    model = model_class(config_class(**SHAPE, **extra)).eval()
    for parameter in model.parameters():  # sharper than the default, so that ties are unlikely
        parameter.data *= 3
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 7]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LanguageModel(model, tokenizer, "x")


def reference(language_model: LanguageModel, prompt: list[int], tokens: int) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    made = language_model.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens
    )[0, len(prompt) :].tolist()
    stops = set(language_model.model.generation_config.eos_token_id)
    end = next((place for place, token in enumerate(made) if token in stops), len(made))
    return tuple(made[:end])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_are_those_of_generate_one_at_a_time(architecture: str, tiny: Tiny) -> None:
    language_model = make(architecture, tiny)
    draw = random.Random(11)
    lengths = [1, 2, 3, 9, 17, 30, 31, 44, 70, 90, 5]
    prompts = [[draw.randrange(10, 2048) for _ in range(length)] for length in lengths]
    made = generate(language_model, prompts, max_new_tokens=24, batch_size=4)
    expected = [reference(language_model, prompt, 24) for prompt in prompts]
    assert [answer.token_ids for answer in made] == expected


def test_a_row_that_stops_leaves_the_others_alone(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    prompts = [[20, 30, 40], [50, 60, 70, 80]]
    free = generate(language_model, prompts, max_new_tokens=12, batch_size=2)
    stop = free[0].token_ids[2]
    language_model.model.generation_config.eos_token_id = [stop]
    made = generate(language_model, prompts, max_new_tokens=12, batch_size=2)
    assert made[0].token_ids == free[0].token_ids[: free[0].token_ids.index(stop)]
    other = free[1].token_ids
    assert made[1].token_ids == other[: other.index(stop)] if stop in other else other


def test_the_tiny_model_loads_as_any_other(tiny: Tiny) -> None:
    folder = ModelManifest.read(tiny.base).folder(tiny.store)
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2
