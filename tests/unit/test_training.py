"""The one training loop goes on where it stopped, and never takes a step with a lost number."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.lm.attention import use_packed_attention
from tasks.lm.batches import Batch, make_batches
from tasks.lm.checkpoints import latest_checkpoint
from tasks.lm.losses import summed_cross_entropy
from tasks.lm.packing import Pack
from tasks.lm.training import train
from tasks.stage.errors import DataError
from tests.unit.conftest import Tiny
from tests.unit.test_generation import make
from tests.unit.test_packing import examples, read_yaml_training

SETTINGS = read_yaml_training().model_copy(
    update={"batch_examples": 2, "evaluations": 4, "patience": 4, "learning_rate": 1e-3}
)


class InterruptedTrainingError(Exception):
    """Stands for a kill in the middle of a training."""


def batches() -> list[Batch]:
    return make_batches(examples(16), SETTINGS, max_tokens=64)


def run(tiny: Tiny, scratch: Path, *, stop_after: int | None = None) -> dict[str, Tensor]:
    """The weights of a training that may be cut short by an exception."""
    model = make("llama", tiny).model
    use_packed_attention(model)
    calls = 0

    def loss(module: nn.Module, pack: Pack) -> Tensor:
        nonlocal calls
        calls += module.training
        if stop_after is not None and calls > stop_after:
            raise InterruptedTrainingError
        return summed_cross_entropy(module, pack)

    held_out = make_batches(examples(3), SETTINGS, max_tokens=64)
    train(model, batches(), held_out, loss, SETTINGS, scratch=scratch, identity="a")
    return model.state_dict()


def test_a_training_goes_on_after_an_interruption_as_if_there_had_been_none(
    tiny: Tiny, tmp_path: Path
) -> None:
    straight = run(tiny, tmp_path / "one")
    with pytest.raises(InterruptedTrainingError):
        run(tiny, tmp_path / "two", stop_after=sum(len(batch.packs) for batch in batches()[:5]))
    assert latest_checkpoint(tmp_path / "two" / "checkpoints" / "a") is not None
    resumed = run(tiny, tmp_path / "two")
    for name, weight in straight.items():
        assert torch.equal(weight, resumed[name]), name
    assert not (tmp_path / "two" / "checkpoints").exists()


def test_a_torn_checkpoint_is_ignored(tmp_path: Path) -> None:
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / name).write_text("{}")
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"torn')
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_a_loss_that_is_lost_stops_before_the_step(tiny: Tiny, tmp_path: Path) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def lost(module: nn.Module, pack: Pack) -> Tensor:
        return summed_cross_entropy(module, pack) * (float("nan") if module.training else 1.0)

    with pytest.raises(DataError, match="nan at step 1"):
        train(model, batches(), batches(), lost, SETTINGS, scratch=tmp_path, identity="a")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_nothing_to_validate_on_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = make("llama", tiny).model
    with pytest.raises(DataError, match="0 validation batches"):
        train(model, batches(), [], summed_cross_entropy, SETTINGS, scratch=tmp_path, identity="a")
