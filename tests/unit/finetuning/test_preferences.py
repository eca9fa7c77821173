"""Preferences are learned by DPO as TRL computes it, from a reference computed once."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer

from tasks.finetuning.preferences import (
    PreferenceLoss,
    PreferencePair,
    exact_pairs,
    make_pair_batches,
    preferred_share,
    reference_log_probabilities,
)
from tasks.sequences.attention import use_plain_attention
from tasks.stage.errors import DataError
from tasks.training.loop import train
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import read_yaml_training

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


def test_preferences_go_through_the_one_trainer(tiny: Tiny, tmp_path: Path) -> None:
    model = make("llama", tiny).model
    rows = pairs(24)
    batches = exact_pairs(model, make_pair_batches(rows[:16], SETTINGS, max_tokens=64))
    held_out = exact_pairs(model, make_pair_batches(rows[16:], SETTINGS, max_tokens=64))
    loss = PreferenceLoss(BETA, reference_log_probabilities(model, [*batches, *held_out]))
    before = preferred_share(model, held_out)
    result = train(model, batches, held_out, loss, SETTINGS, scratch=tmp_path, identity="a")
    assert result.initial_validation_loss == pytest.approx(0.6931472, abs=1e-4)
    assert result.best_validation_loss < 0.67
    assert preferred_share(model, held_out) > before
    use_plain_attention(model)


def test_a_pair_stays_in_one_pack(tiny: Tiny) -> None:
    for batch in make_pair_batches(pairs(9), SETTINGS, max_tokens=1):
        assert [pack.examples for pack in batch.packs] == [2] * batch.supervised
        assert [pack.examples for pack in batch.repacked(1).packs] == [2] * batch.supervised


def test_a_pair_of_equal_answers_is_refused_by_name() -> None:
    row = PreferencePair("p9", (1, 2), (3, 4), (3, 4))
    with pytest.raises(DataError, match="1 preference pairs have two equal answers, p9 first"):
        make_pair_batches([*pairs(3), row], SETTINGS, max_tokens=64)
