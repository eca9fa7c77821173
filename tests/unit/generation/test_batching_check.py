"""Rows are decoded together where that is exact, and one by one where it is not, which is told."""

import logging
import random

import pytest
import torch
from transformers import PreTrainedModel

from tasks.generation.greedy_decoding import generate
from tasks.models.loading import LanguageModel, load_tokenizer
from tasks.models.manifest import ModelManifest
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make, mixed, reference
from tests.unit.sequences.test_packing import DYNAMIC, of_kind


def with_tokenizer(model: PreTrainedModel, tiny: Tiny) -> LanguageModel:
    tokenizer = load_tokenizer(ModelManifest.read(tiny.base).folder(tiny.store))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 7]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LanguageModel(model, tokenizer, "x")


def answers_as_generate(language_model: LanguageModel, prompts: list[list[int]]) -> bool:
    made = generate(language_model, prompts, max_new_tokens=10, batch_size=4)
    expected = [reference(language_model, prompt, 10) for prompt in prompts]
    return [one.token_ids for one in made] == expected


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("gemma2", {"sliding_window": 8}),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 2, "sliding_window": 8}),
        ("mistral", {"sliding_window": 8}),
        ("phi3", {"pad_token_id": 0}),
    ],
)
def test_other_kinds_of_attention_decode_together(
    architecture: str, changes: dict[str, object], tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    """Capped scores, attention sinks, windows shorter than the prompts, one matrix for all."""
    assert answers_as_generate(with_tokenizer(of_kind(architecture, **changes), tiny), mixed(1))
    assert "one prompt at a time" not in caplog.text


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [("mamba", {}), ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]})],
)
def test_a_model_that_would_mix_rows_answers_them_one_by_one(
    architecture: str, changes: dict[str, object], tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    language_model = with_tokenizer(of_kind(architecture, **changes), tiny)
    assert answers_as_generate(language_model, mixed(1)[:4])
    assert "answers one prompt at a time" in caplog.text
    [made] = generate(language_model, [[20, 30]], max_new_tokens=10, batch_size=1)
    assert made.is_cut == (len(made.token_ids) == 10)
    assert 0 < made.first_token_ms <= made.latency_ms


def test_a_model_that_treats_long_rows_otherwise_answers_them_one_by_one(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    model = of_kind("llama", max_position_embeddings=36, rope_parameters=DYNAMIC)
    language_model = with_tokenizer(model, tiny)
    draw = random.Random(3)
    short, long = ([draw.randrange(10, 2048) for _ in range(length)] for length in (20, 30))
    assert answers_as_generate(language_model, [short])
    assert not caplog.records
    assert answers_as_generate(language_model, [short, long])
    assert "of 40 tokens, it treats those over 36 otherwise" in caplog.text


@pytest.mark.slow
def test_settings_that_change_greedy_answers_are_followed_one_by_one(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    language_model = make("llama", tiny)
    language_model.model.generation_config.no_repeat_ngram_size = 2
    language_model.model.generation_config.suppress_tokens = [11, 12]
    assert answers_as_generate(language_model, mixed(2))
    assert "settings set no_repeat_ngram_size, suppress_tokens" in caplog.text


@pytest.mark.slow
def test_a_penalty_on_repetition_is_followed_together(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    language_model = make("llama", tiny)
    plain = generate(language_model, mixed(3), max_new_tokens=10, batch_size=4)
    language_model.model.generation_config.repetition_penalty = 1.5
    assert answers_as_generate(language_model, mixed(3))
    penalized = generate(language_model, mixed(3), max_new_tokens=10, batch_size=4)
    assert [one.token_ids for one in penalized] != [one.token_ids for one in plain]
    assert not caplog.records


def test_a_model_is_tried_once(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    language_model = make("llama", tiny)
    calls: list[object] = []
    language_model.model.register_forward_hook(lambda *_: calls.append(None))
    generate(language_model, [[20, 30]], max_new_tokens=1, batch_size=1)
    first = len(calls)
    generate(language_model, [[20, 30]], max_new_tokens=1, batch_size=1)
    assert len(calls) - first == 1 < first


def test_decoding_together_leaves_no_gradients_on(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    generate(language_model, [[20, 30]], max_new_tokens=1, batch_size=1)
    assert torch.is_grad_enabled()
    assert language_model.model(input_ids=torch.tensor([[5]])).logits.requires_grad
