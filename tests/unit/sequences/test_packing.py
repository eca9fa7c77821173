"""Packed examples learn exactly what they would learn one at a time."""

import random
from collections import Counter

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tasks.sequences.attention import use_packed_attention
from tasks.sequences.examples import Example
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import build_pack, distinct_tokens, packed_logits, plan_packs
from tasks.sequences.packing_check import packs_exactly, prepare_packs
from tasks.stage.params import read_yaml
from tasks.training.batches import choose_examples, make_batches
from tasks.training.params import TrainingParams
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import SHAPE, make


def example(name: str, ids: tuple[int, ...], prompt: int, context: str, intake: str) -> Example:
    return Example(name, "s", intake, "closed_book", context, ids, prompt)


def examples(count: int = 7, intake: str = "n1") -> list[Example]:
    """Examples that share nothing."""
    draw = random.Random(count)
    made = []
    for number in range(count):
        ids = tuple(draw.randrange(10, 2048) for _ in range(draw.randrange(6, 40)))
        name = f"{intake}-{number}"
        made.append(example(name, ids, 4, name, intake))
    return made


def sharing(seed: int) -> list[Example]:
    """Examples of contexts below one common beginning; some repeat or continue one another."""
    draw = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10, 2048) for _ in range(draw.randint(least, most)))

    beginning = tokens(1, 30)
    made = []
    for context in range(draw.randint(1, 4)):
        shown = beginning + tokens(0, 40)
        for number in range(draw.randint(1, 4)):
            prompt = shown + tokens(1, 10)
            ids = prompt + tokens(1, 8)
            name = f"{context}-{number}"
            made.append(example(name, ids, len(prompt), f"c{context}", "n1"))
            if draw.random() < 0.3:
                longer = ids + tokens(0, 6)
                made.append(example(f"{name}+", longer, len(prompt), f"c{context}", "n1"))
    return made


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gemma"])
@pytest.mark.parametrize("seed", range(4))
def test_a_pack_gives_the_loss_and_gradients_of_its_examples(
    architecture: str, seed: int, tiny: Tiny
) -> None:
    model = make(architecture, tiny).model
    given = sharing(seed)
    alone = torch.zeros(())
    for item in given:
        ids = torch.tensor([item.token_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, item.prompt_length - 1 : -1]
        alone = alone + cross_entropy(logits, ids[0, item.prompt_length :], reduction="sum")
    alone.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    use_packed_attention(model)
    pack = build_pack(given)
    packed = summed_cross_entropy(model, pack)
    packed.backward()
    assert pack.tokens <= sum(len(item.token_ids) for item in given)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-4)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-3, atol=1e-3)


def test_what_examples_share_is_held_once() -> None:
    shown = tuple(range(100, 140))
    given = [example(str(n), (*shown, 10 + n, 20 + n), 41, "c", "n1") for n in range(3)]
    pack = build_pack(given)
    assert pack.tokens == distinct_tokens(given) == 40 + 3 * 2
    assert pack.position_ids[0].tolist() == [*range(40), 40, 41, 40, 41, 40, 41]
    assert pack.targets.tolist() == [20, 21, 22]


def test_a_short_prefix_is_repeated_and_not_split_off() -> None:
    given = [example(str(n), (5, 6, 7, 10 + n, 20 + n), 4, "c", "n1") for n in range(2)]
    assert build_pack(given).tokens == 10


def test_changing_one_example_leaves_the_others_untouched(tiny: Tiny) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    first, second = examples(2)
    other = example("o", tuple(reversed(first.token_ids)), 4, "o", "n1")
    with torch.no_grad():
        before = packed_logits(model, build_pack([first, second]))[-second.supervised :]
        after = packed_logits(model, build_pack([other, second]))[-second.supervised :]
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_a_plan_holds_every_example_once_within_the_limit() -> None:
    given = examples(40)
    groups = plan_packs(given, 64)
    assert sorted(item.id for group in groups for item in group) == sorted(e.id for e in given)
    assert all(sum(len(item.token_ids) for item in group) <= 64 for group in groups)


def test_a_long_example_gets_a_pack_of_its_own_uncut() -> None:
    groups = plan_packs(examples(3), 1)
    assert sorted(len(group) for group in groups) == [1, 1, 1]


def test_a_plan_keeps_a_context_together_and_counts_its_prefix_once() -> None:
    given = sharing(3)
    names = {item.context for item in given}
    sizes = {name: distinct_tokens([e for e in given if e.context == name]) for name in names}
    groups = plan_packs(given, max(sizes.values()))
    assert sorted(item.id for group in groups for item in group) == sorted(e.id for e in given)
    for name in names:
        assert sum(any(item.context == name for item in group) for group in groups) == 1


def test_a_batch_holds_whole_contexts_and_at_least_so_many_examples() -> None:
    settings = read_yaml_training()
    given = sharing(3)
    sizes = Counter(item.context for item in given)
    *full, last = make_batches(given, settings, max_tokens=4096)
    assert sum(pack.examples for batch in (*full, last) for pack in batch.packs) == len(given)
    held = [sum(pack.examples for pack in batch.packs) for batch in full]
    assert all(settings.batch_examples <= count for count in held)
    assert all(count < settings.batch_examples + max(sizes.values()) for count in held)


def size(chosen: list[Example], intake: str) -> int:
    return sum(len(item.token_ids) for item in chosen if item.intake == intake)


def test_new_and_old_rows_share_the_budget_and_the_old_ones_keep_their_order() -> None:
    old, new = examples(60, "n1"), examples(60, "n2")
    chosen = choose_examples([*old, *new], token_budget=800, new_share=0.5, seed=0)
    for intake in ("n1", "n2"):
        assert 350 <= size(chosen, intake) <= 450
    rest = [item.id for item in chosen if item.intake == "n1"]
    alone = [item.id for item in choose_examples(old, token_budget=800, new_share=0.5, seed=0)]
    assert rest == alone[: len(rest)]


@pytest.mark.parametrize(("olds", "news"), [(3, 60), (60, 3)])
def test_what_one_side_leaves_of_the_budget_the_other_takes(olds: int, news: int) -> None:
    old, new = examples(olds, "n1"), examples(news, "n2")
    chosen = choose_examples([*old, *new], token_budget=800, new_share=0.5, seed=0)
    few = "n1" if olds < news else "n2"
    assert size(chosen, few) == size([*old, *new], few)
    assert 750 <= sum(len(item.token_ids) for item in chosen) <= 800


def test_batches_depend_on_the_seed_and_not_on_the_given_order() -> None:
    settings = read_yaml_training()
    one = make_batches(examples(20), settings, max_tokens=64)
    two = make_batches(list(reversed(examples(20))), settings, max_tokens=64)
    assert [batch.tokens for batch in one] == [batch.tokens for batch in two]


def read_yaml_training() -> TrainingParams:
    from pathlib import Path

    content = read_yaml(Path("params/finetuning.yaml"))
    return TrainingParams.model_validate({k: content[k] for k in TrainingParams.model_fields})


def of_kind(architecture: str, **changes: object) -> PreTrainedModel:
    torch.manual_seed(2)
    config = AutoConfig.for_model(architecture, **(SHAPE | changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():  # sharper than the default, so that a mix shows
        parameter.data *= 3
    return model


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("gemma2", {"sliding_window": 8}),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 2, "sliding_window": 8}),
        ("mistral", {"sliding_window": 8}),
        ("phi3", {"pad_token_id": 0}),
    ],
)
def test_other_kinds_of_attention_pack_exactly(
    architecture: str, changes: dict[str, object]
) -> None:
    assert packs_exactly(of_kind(architecture, **changes))


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"max_position_embeddings": 36, "rope_parameters": DYNAMIC}),
        ("llama4_text", {"attention_chunk_size": 36, "num_local_experts": 1}),
        ("qwen2_moe", {"sliding_window": 36, "use_sliding_window": True, "max_window_layers": 0}),
    ],
)
def test_a_model_that_treats_long_examples_otherwise_packs_only_short_ones(
    architecture: str, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    batches = make_batches(examples(20), read_yaml_training(), max_tokens=256)
    assert max(len(item.token_ids) for batch in batches for item in batch.examples) > 36
    [found] = prepare_packs(of_kind(architecture, **changes), batches)
    assert {pack.examples for batch in found for pack in batch.packs} == {1}
    assert "treats those over 36 otherwise" in caplog.text
    short = [item for item in examples(20) if len(item.token_ids) <= 36]
    packed = make_batches(short, read_yaml_training(), max_tokens=256)
    assert prepare_packs(of_kind(architecture, **changes), packed) == [packed]


BLOOM = {"hidden_size": 64, "n_layer": 2, "n_head": 4, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("mamba", {}, "would mix examples"),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "would mix examples"),
        ("bloom", BLOOM, "its attention can't be replaced"),
    ],
)
def test_a_model_that_mixes_packed_examples_gets_them_one_by_one(
    architecture: str, changes: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = of_kind(architecture, **changes)
    batches = make_batches(examples(6), read_yaml_training(), max_tokens=256)
    [found] = prepare_packs(model, batches)
    assert said in caplog.text
    packs = [pack for batch in found for pack in batch.packs]
    assert [pack.examples for pack in packs] == [1] * 6
    alone = sum(float(summed_cross_entropy(model, pack)) for pack in packs)
    expected = 0.0
    for item in examples(6):
        ids = torch.tensor([item.token_ids])
        logits = model(input_ids=ids).logits[0, item.prompt_length - 1 : -1]
        expected += float(cross_entropy(logits, ids[0, item.prompt_length :], reduction="sum"))
    assert alone == pytest.approx(expected, rel=1e-4)
