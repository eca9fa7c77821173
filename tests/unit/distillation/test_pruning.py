"""Which layers a student keeps, and that it is then a model of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.distillation.pruning import (
    block_influence,
    check_layers,
    choose_layers,
    prune,
    removal_divergence,
)
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.packing import build_pack, packed_logits
from tasks.stage.errors import ConfigError
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples


def test_the_most_influential_layers_stay_in_order() -> None:
    assert choose_layers([0.5, 0.1, 0.3, 0.2, 0.9], 3, "importance") == [0, 2, 4]


def test_uniform_layers_run_from_the_first_to_the_last() -> None:
    assert choose_layers([0.0] * 30, 6, "uniform") == [0, 6, 12, 17, 23, 29]
    assert choose_layers([0.0] * 3, 1, "uniform") == [0]


@pytest.mark.parametrize("named", [[0, 3], [-1], [1, 0], [1, 1]])
def test_layers_that_the_teacher_has_not_are_refused(named: list[int]) -> None:
    with pytest.raises(ConfigError, match="layers are 0 to 2"):
        check_layers(named, 3)


@pytest.mark.parametrize("count", [3, 4])
def test_a_student_as_deep_as_its_teacher_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="its teacher has 3; a student"):
        choose_layers([0.1, 0.2, 0.3], count, "importance")


@pytest.mark.parametrize("measure", [block_influence, removal_divergence])
def test_a_layer_that_does_nothing_has_no_influence(measure: Any, tiny: Tiny) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    idle = model.model.layers[1]
    idle.self_attn.o_proj.weight.data.zero_()
    idle.mlp.down_proj.weight.data.zero_()
    influence = measure(model, [build_pack(examples())])
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert min(influence[0], influence[2]) > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gemma"])
def test_a_layer_is_worth_what_the_model_says_else_without_it(
    architecture: str, tiny: Tiny
) -> None:
    model = make(architecture, tiny).model
    use_packed_attention(model)
    pack = build_pack(examples())
    found = removal_divergence(model, [pack, pack])
    with torch.no_grad():
        whole = packed_logits(model, pack).log_softmax(-1)
        for number, value in enumerate(found):
            student = prune(model, [other for other in range(len(found)) if other != number])
            left = packed_logits(student, pack).log_softmax(-1)
            expected = (whole.exp() * (whole - left)).sum(-1).mean()
            assert value == pytest.approx(float(expected), rel=1e-4)
    assert min(found) > 0
    with torch.no_grad():  # and the model is left as it was
        torch.testing.assert_close(packed_logits(model, pack).log_softmax(-1), whole)


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gemma"])
def test_a_pruned_student_loads_by_itself_and_answers_alike(
    architecture: str, tiny: Tiny, tmp_path: Path
) -> None:
    student = prune(make(architecture, tiny).model, [0, 2])
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=ids).logits, student(input_ids=ids, use_cache=False).logits
        )
    assert loaded.config.num_hidden_layers == 2
