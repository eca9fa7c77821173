"""Packed examples learn exactly what they would learn one at a time."""

import random

import pytest
import torch
from torch.nn.functional import cross_entropy

from tasks.lm.batches import make_batches
from tasks.lm.examples import Example, choose_examples
from tasks.lm.losses import summed_cross_entropy
from tasks.lm.packing import build_pack, packed_logits, plan_packs, use_packed_attention
from tasks.lm.params import TrainingParams
from tasks.stage.params import read_yaml
from tests.unit.conftest import Tiny
from tests.unit.test_generation import make


def examples(count: int = 7, intake: str = "n1") -> list[Example]:
    draw = random.Random(count)
    made = []
    for number in range(count):
        ids = tuple(draw.randrange(10, 2048) for _ in range(draw.randrange(6, 40)))
        made.append(Example(f"{intake}-{number}", "s", intake, "closed_book", ids, 4))
    return made


@pytest.mark.parametrize("architecture", ["llama", "qwen"])
def test_a_pack_gives_the_loss_and_gradients_of_its_examples(architecture: str, tiny: Tiny) -> None:
    model = make(architecture, tiny).model
    alone = torch.zeros(())
    for example in examples():
        ids = torch.tensor([example.token_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, 3:-1]
        alone = alone + cross_entropy(logits, ids[0, 4:], reduction="sum")
    alone.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    use_packed_attention(model)
    packed = summed_cross_entropy(model, build_pack(examples()))
    packed.backward()
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-4)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-3, atol=1e-3)


def test_changing_one_example_leaves_the_others_untouched(tiny: Tiny) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    first, second = examples(2)
    other = Example("o", "s", "n1", "closed_book", tuple(reversed(first.token_ids)), 4)
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


def test_the_budget_takes_new_rows_first_and_the_same_old_ones() -> None:
    old, new = examples(30, "n1"), examples(5, "n2")
    budget = sum(len(item.token_ids) for item in new) + 200
    chosen = choose_examples([*old, *new], token_budget=budget, seed=0)
    assert {item.id for item in new} <= {item.id for item in chosen}
    rest = [item.id for item in chosen if item.intake == "n1"]
    alone = [item.id for item in choose_examples(old, token_budget=10_000, seed=0)]
    assert rest == alone[: len(rest)]
    assert sum(len(item.token_ids) for item in chosen) <= budget


def test_batches_depend_on_the_seed_and_not_on_the_given_order() -> None:
    settings = read_yaml_training()
    one = make_batches(examples(20), settings, max_tokens=64)
    two = make_batches(list(reversed(examples(20))), settings, max_tokens=64)
    assert [batch.tokens for batch in one] == [batch.tokens for batch in two]


def read_yaml_training() -> TrainingParams:
    from pathlib import Path

    content = read_yaml(Path("params/finetuning.yaml"))
    return TrainingParams.model_validate({k: content[k] for k in TrainingParams.model_fields})
