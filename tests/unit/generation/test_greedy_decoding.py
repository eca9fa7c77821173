"""Batched greedy generation answers as the reference does, one prompt at a time."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

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

from tasks.generation import continuous_batching as decoding
from tasks.generation import greedy_decoding
from tasks.generation.greedy_decoding import generate
from tasks.generation.kv_cache import Pass
from tasks.models.loading import LanguageModel, load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.stage.errors import ConfigError, DataError
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


def drawn(draw: random.Random, length: int) -> list[int]:
    return [draw.randrange(10, 2048) for _ in range(length)]


def mixed(seed: int) -> list[list[int]]:
    """Prompts long and short, that share much, little and nothing; two are alike."""
    draw = random.Random(seed)
    system = drawn(draw, 12)
    passages = [system + drawn(draw, 40) for _ in range(2)]
    prompts = [drawn(draw, length) for length in (1, 2, 3, 17, 44, 90)]
    prompts += [system + drawn(draw, length) for length in (1, 5, 5, 30)]
    prompts += [shown + drawn(draw, length) for shown in passages for length in (4, 9, 2)]
    prompts += [prompts[7], prompts[7] + drawn(draw, 3), system]
    draw.shuffle(prompts)
    return prompts


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_are_those_of_generate_one_at_a_time(
    architecture: str, batch_size: int, tiny: Tiny
) -> None:
    language_model = make(architecture, tiny)
    prompts = mixed(batch_size)
    expected = [reference(language_model, prompt, 24) for prompt in prompts]
    # One token ends many answers early, so that rows leave and enter all the time.
    frequent, _ = Counter(token for answer in expected for token in answer).most_common(1)[0]
    language_model.model.generation_config.eos_token_id += [frequent]
    expected = [answer[: (*answer, frequent).index(frequent)] for answer in expected]
    assert len({len(answer) for answer in expected}) > 3
    made = generate(language_model, prompts, max_new_tokens=24, batch_size=batch_size)
    assert [answer.token_ids for answer in made] == expected
    assert [answer.is_cut for answer in made] == [len(answer) == 24 for answer in expected]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_longer_than_a_pass_goes_in_by_pieces(
    architecture: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoding._PASS_TOKENS, "cpu", 7)
    language_model = make(architecture, tiny)
    prompts = mixed(3)
    made = generate(language_model, prompts, max_new_tokens=9, batch_size=5)
    expected = [reference(language_model, prompt, 9) for prompt in prompts]
    assert [answer.token_ids for answer in made] == expected


@dataclass
class Seen:
    """What went through a model: tokens and rows pass by pass."""

    passes: list[Pass] = field(default_factory=list)

    @classmethod
    def of(cls, language_model: LanguageModel) -> "Seen":
        seen = cls()

        def note(_: object, __: object, given: dict[str, Any]) -> None:
            if "decoding" in given:
                seen.passes.append(given["decoding"])

        language_model.model.register_forward_pre_hook(note, with_kwargs=True)
        return seen


def test_what_prompts_share_goes_through_the_model_once(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    prompts = [tuple(prompt) for prompt in mixed(1)]
    generate(language_model, [[1]], max_new_tokens=1, batch_size=1)  # the trial is over
    seen = Seen.of(language_model)
    generate(language_model, prompts, max_new_tokens=6, batch_size=3)
    read = sum(piece.end - piece.begin for one in seen.passes for piece in one.pieces)
    distinct = {prompt[:end] for prompt in prompts for end in range(1, len(prompt) + 1)}
    assert read == len(distinct)


def test_never_more_rows_than_asked_for_and_new_ones_enter_as_others_leave(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    prompts = mixed(2)
    free = generate(language_model, prompts, max_new_tokens=12, batch_size=4)
    counts = Counter(token for answer in free for token in answer.token_ids)
    language_model.model.generation_config.eos_token_id = [counts.most_common(1)[0][0]]
    seen = Seen.of(language_model)
    generate(language_model, prompts, max_new_tokens=12, batch_size=4)
    assert max(len(one.answering) for one in seen.passes) == 4
    assert any(one.decoded and one.pieces for one in seen.passes)
    longest = max(map(len, prompts))
    for layer in seen.passes[-1].slots.layers.values():
        assert [room.shape[:3] for room in layer.slots] == [(4, 2, longest + 12)] * 2
        assert [room.shape[:2] for room in layer.path] == [(2, longest)] * 2


def test_memory_that_nothing_was_written_to_is_never_read(tiny: Tiny) -> None:
    language_model = make("gemma", tiny)
    expected = [reference(language_model, prompt, 6) for prompt in mixed(7)]
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    try:
        made = generate(language_model, mixed(7), max_new_tokens=6, batch_size=4)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [answer.token_ids for answer in made] == expected


def test_a_row_that_stops_leaves_the_others_alone(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    prompts = [[20, 30, 40], [50, 60, 70, 80]]
    free = generate(language_model, prompts, max_new_tokens=12, batch_size=2)
    stop = free[0].token_ids[2]
    language_model.model.generation_config.eos_token_id = [stop]
    made = generate(language_model, prompts, max_new_tokens=12, batch_size=2)
    for before, after in zip(free, made, strict=True):
        ends = stop in before.token_ids
        end = before.token_ids.index(stop) if ends else len(before.token_ids)
        assert after.token_ids == before.token_ids[:end]
        assert after.is_cut == (not ends)


def test_a_model_that_never_stops_is_cut_and_says_so(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    language_model.model.generation_config.eos_token_id = None
    [made] = generate(language_model, [[20, 30, 40]], max_new_tokens=50, batch_size=2)
    assert len(made.token_ids) == 50
    assert made.is_cut


@pytest.mark.parametrize("together", [True, False])
def test_stops_are_ignored_where_speed_is_compared(
    together: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greedy_decoding, "decodes_together", lambda *_: together)
    language_model = make("llama", tiny)
    [free] = generate(language_model, [[20, 30, 40]], max_new_tokens=12, batch_size=1)
    stop = free.token_ids[2]
    language_model.model.generation_config.eos_token_id = [stop]
    [stopped] = generate(language_model, [[20, 30, 40]], max_new_tokens=12, batch_size=1)
    [made] = generate(
        language_model, [[20, 30, 40]], max_new_tokens=12, batch_size=1, ignore_stops=True
    )
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop)]
    assert made.token_ids == free.token_ids
    assert made.is_cut


def test_the_first_token_comes_between_the_prompt_and_the_last(tiny: Tiny) -> None:
    for made in generate(make("llama", tiny), mixed(4), max_new_tokens=5, batch_size=4):
        assert 0 < made.first_token_ms <= made.latency_ms
        assert (made.first_token_ms == made.latency_ms) == (len(made.token_ids) + made.is_cut < 2)


def test_progress_counts_every_prompt_once(tiny: Tiny) -> None:
    told: list[tuple[int, int]] = []
    prompts = mixed(5)
    generate(
        make("llama", tiny),
        prompts,
        max_new_tokens=3,
        batch_size=4,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == sorted(set(told))
    assert told[-1] == (len(prompts), len(prompts))


def test_nothing_asked_is_nothing_answered(tiny: Tiny) -> None:
    assert generate(make("llama", tiny), [], max_new_tokens=3, batch_size=4) == []


def test_a_prompt_without_tokens_is_refused(tiny: Tiny) -> None:
    with pytest.raises(DataError, match="prompt 1 of 2 has no tokens"):
        generate(make("llama", tiny), [[5], []], max_new_tokens=3, batch_size=4)


def test_scores_that_are_not_finite_are_refused(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    generate(language_model, [[5]], max_new_tokens=1, batch_size=1)
    language_model.model.model.norm.weight.data[3] = float("nan")
    own = language_model.model.config._attn_implementation
    with pytest.raises(ConfigError, match="scores that are not finite"):
        generate(language_model, [[5, 6]], max_new_tokens=3, batch_size=4)
    assert language_model.model.config._attn_implementation == own


def test_the_model_attends_as_before_afterwards(tiny: Tiny) -> None:
    language_model = make("gemma", tiny)
    ids = torch.tensor([drawn(random.Random(6), 30)])
    before = language_model.model(input_ids=ids).logits
    generate(language_model, mixed(6), max_new_tokens=3, batch_size=4)
    assert torch.equal(language_model.model(input_ids=ids).logits, before)


def test_threads_that_share_a_model_get_the_answers_of_each_alone(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    asked = [mixed(seed) for seed in range(4)]

    def answer(prompts: list[list[int]]) -> list[tuple[int, ...]]:
        made = generate(language_model, prompts, max_new_tokens=8, batch_size=4)
        return [one.token_ids for one in made]

    alone = [answer(prompts) for prompts in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, asked)) == alone


def test_the_tiny_model_loads_as_any_other(tiny: Tiny) -> None:
    folder = ModelManifest.read(tiny.base).folder(tiny.store)
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2
