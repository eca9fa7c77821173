"""Preferences are learned by DPO as TRL computes it, from a reference computed once."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer

from tasks.finetuning.preferences import (
    SERIES,
    PreferenceLoss,
    PreferencePair,
    exact_pairs,
    learn_preferences,
    make_pair_batches,
    reference_log_probabilities,
)
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_curve
from tasks.training.batches import make_batches
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples, read_yaml_training

SETTINGS = read_yaml_training().model_copy(
    update={"batch_examples": 4, "evaluations": 3, "patience": 9, "learning_rate": 1e-3}
)
BETA = 0.1


def pairs(count: int) -> list[PreferencePair]:
    """Pairs whose chosen answer begins with 7 and whose rejected one begins with 8."""
    draw = torch.Generator().manual_seed(3)

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, 90, (size,), generator=draw).tolist())

    return [
        PreferencePair(
            f"p{at}", tokens(12 + at), (7, *tokens(2 + at % 3)), (8, *tokens(1 + at % 4))
        )
        for at in range(count)
    ]


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The model after some training, so that it is no longer its reference."""
    other = deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return other


def trl_loss(
    model: PreTrainedModel, reference: PreTrainedModel, tiny: Tiny, rows: list[PreferencePair],
    folder: Path,
) -> float:  # fmt: skip
    """What TRL's DPOTrainer finds of the same token ids in one batch."""
    tokenizer = make("llama", tiny).tokenizer
    text = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * len(rows)
    arguments = DPOConfig(
        output_dir=str(folder), beta=BETA, use_cpu=True, report_to="none", bf16=False,
        per_device_train_batch_size=len(rows), gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        model, reference, arguments, train_dataset=Dataset.from_list(text),
        processing_class=tokenizer,
    )  # fmt: skip
    inputs = trainer.data_collator(
        [
            {
                "prompt_ids": list(row.prompt),
                "chosen_ids": list(row.chosen),
                "rejected_ids": list(row.rejected),
            }
            for row in rows
        ]
    )
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, inputs))


def test_the_loss_is_that_of_trl(tiny: Tiny, tmp_path: Path) -> None:
    reference = make("llama", tiny).model
    model, rows = moved(reference), pairs(5)
    expected = trl_loss(deepcopy(model), deepcopy(reference), tiny, rows, tmp_path)
    params = SETTINGS.model_copy(update={"batch_examples": 10})
    [batch] = make_pair_batches(rows, params, max_tokens=64)
    [batch] = exact_pairs(reference, [batch])
    loss = PreferenceLoss(BETA, reference_log_probabilities(reference, [batch]))
    at_first = sum(loss(reference, pack).item() for pack in batch.packs) / batch.supervised
    assert at_first == pytest.approx(0.6931472, abs=1e-4)
    [batch] = exact_pairs(model, make_pair_batches(rows, params, max_tokens=64))
    with torch.no_grad():
        found = sum(loss(model, pack).item() for pack in batch.packs) / batch.supervised
    assert abs(expected - 0.6931472) > 1e-2
    assert found == pytest.approx(expected, abs=1e-4)


def test_preferences_go_through_the_one_trainer_and_tell_what_they_bought_and_cost(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = make("llama", tiny).model
    rows = pairs(24)
    batches = exact_pairs(model, make_pair_batches(rows[:16], SETTINGS, max_tokens=64))
    held_out = exact_pairs(model, make_pair_batches(rows[16:], SETTINGS, max_tokens=64))
    answers = make_batches(examples(3), SETTINGS, max_tokens=64)
    result = learn_preferences(
        model, (batches, held_out), answers, SETTINGS, BETA, scratch=tmp_path, identity="a",
        share=(0.5, 1.0),
    )  # fmt: skip
    assert (result.pairs, result.held_out, result.steps) == (16, 8, 8)
    assert result.loss < 0.67
    assert result.preferred_after > result.preferred_before
    assert result.answers_loss_after != result.answers_loss_before
    assert "16 pairs in 8 steps" in result.text
    first = read_curve(tmp_path, "validation_loss", series=SERIES)[0]
    assert first == (0, pytest.approx(0.6931472, abs=1e-4))


def test_a_pair_stays_in_one_pack(tiny: Tiny) -> None:
    for batch in make_pair_batches(pairs(9), SETTINGS, max_tokens=1):
        assert [pack.examples for pack in batch.packs] == [2] * batch.supervised
        assert [pack.examples for pack in batch.repacked(1).packs] == [2] * batch.supervised


def test_a_pair_of_equal_answers_is_refused_by_name() -> None:
    row = PreferencePair("p9", (1, 2), (3, 4), (3, 4))
    with pytest.raises(DataError, match="1 preference pairs have two equal answers, p9 first"):
        make_pair_batches([*pairs(3), row], SETTINGS, max_tokens=64)
