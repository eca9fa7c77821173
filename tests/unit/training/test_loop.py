"""The one training loop goes on where it stopped, and never takes a step with a lost number."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.sequences.attention import use_packed_attention
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch, Pack
from tasks.stage.errors import DataError, DeviceError
from tasks.training.batches import make_batches
from tasks.training.checkpoints import (
    checkpoint_folder,
    drop_checkpoints,
    latest_checkpoint,
    seal_checkpoint,
)
from tasks.training.loop import train, training_identity
from tasks.training.params import TrainingParams
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples, read_yaml_training

SETTINGS = read_yaml_training().model_copy(
    update={"batch_examples": 2, "evaluations": 4, "patience": 4, "learning_rate": 1e-3}
)
EPOCHS = SETTINGS.model_copy(update={"epochs": 3, "evaluations": 6, "patience": 6})


class InterruptedTrainingError(Exception):
    """Stands for a kill in the middle of a training."""


def batches() -> list[Batch]:
    return make_batches(examples(16), SETTINGS, max_tokens=64)


def run(
    tiny: Tiny,
    scratch: Path,
    *,
    stop_after: int | None = None,
    params: TrainingParams = SETTINGS,
    seen: list[Pack] | None = None,
) -> dict[str, Tensor]:
    """The weights of a training that may be cut short by an exception; `seen` takes its packs."""
    model = make("llama", tiny).model
    use_packed_attention(model)
    calls, begun = 0, False

    def loss(module: nn.Module, pack: Pack) -> Tensor:
        nonlocal calls, begun
        begun = begun or not module.training  # before the first evaluation memory is estimated
        calls += module.training and begun
        if stop_after is not None and calls > stop_after:
            raise InterruptedTrainingError
        if module.training and begun and seen is not None:
            seen.append(pack)
        return summed_cross_entropy(module, pack)

    held_out = make_batches(examples(3), SETTINGS, max_tokens=64)
    train(model, batches(), held_out, loss, params, scratch=scratch, identity="a")
    return model.state_dict()


@pytest.mark.slow
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
    again = run(tiny, tmp_path / "two", stop_after=0)  # as killed before its result was safe
    assert all(torch.equal(weight, again[name]) for name, weight in straight.items())
    drop_checkpoints(tmp_path / "two")
    assert not (tmp_path / "two" / "checkpoints").exists()


@pytest.mark.slow
def test_an_epoch_that_is_gone_on_with_repeats_its_own_order(tiny: Tiny, tmp_path: Path) -> None:
    straight: list[Pack] = []
    weights = run(tiny, tmp_path / "one", params=EPOCHS, seen=straight)
    packs = [pack for batch in batches() for pack in batch.packs]
    orders = [
        straight[start : start + len(packs)] for start in range(0, 3 * len(packs), len(packs))
    ]
    ids = [[pack.input_ids.tolist() for pack in order] for order in orders]
    assert len(ids[2]) == len(packs)
    assert ids[0] != ids[1] != ids[2] != ids[0]
    assert sorted(ids[0]) == sorted(ids[1]) == sorted(ids[2])

    with pytest.raises(InterruptedTrainingError):
        run(tiny, tmp_path / "two", params=EPOCHS, stop_after=int(1.8 * len(packs)))
    resumed: list[Pack] = []
    again = run(tiny, tmp_path / "two", params=EPOCHS, seen=resumed)
    assert 0 < len(resumed) < 2 * len(packs)
    tail = straight[-len(resumed) :]
    for one, other in zip(resumed, tail, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())


def sealed(folder: Path, step: int, *, best: int | None = None) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"best_global_step": best or step}))
    (checkpoint / "optimizer.pt").write_bytes(b"moments" * 100)
    seal_checkpoint(folder, step, best_step=best or step)
    return checkpoint


def cut_short(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").write_bytes(b"mom")


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()


def stop_before_the_seal(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def change_a_byte(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").write_bytes(b"m0ments" * 100)


@pytest.mark.parametrize("tear", [cut_short, lose_a_file, stop_before_the_seal, change_a_byte])
def test_a_torn_checkpoint_is_ignored(tear: Callable[[Path], None], tmp_path: Path) -> None:
    whole = sealed(tmp_path, 2)
    tear(sealed(tmp_path, 4, best=2))
    assert latest_checkpoint(tmp_path) == whole


def test_a_checkpoint_whose_best_one_is_torn_is_ignored(tmp_path: Path) -> None:
    best = sealed(tmp_path, 2)
    sealed(tmp_path, 4, best=2)
    cut_short(best)
    assert latest_checkpoint(tmp_path) is None


def test_the_clock_does_not_decide_which_checkpoint_is_the_latest(tmp_path: Path) -> None:
    sealed(tmp_path, 2)
    latest = sealed(tmp_path, 10, best=2)
    os.utime(latest, (0, 0))  # as if the clock had been set back since
    assert latest_checkpoint(tmp_path) == latest
    newest = sealed(tmp_path, 12, best=10)
    os.utime(newest, (0, 0))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-12"}


def test_checkpoints_of_another_training_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sealed(checkpoint_folder(tmp_path, "one"), 2)
    assert latest_checkpoint(checkpoint_folder(tmp_path, "one")) is not None
    assert latest_checkpoint(checkpoint_folder(tmp_path, "two")) is None
    assert "another base, other data or other params" in caplog.text
    aside = tmp_path / "checkpoints" / "aside-one"
    assert latest_checkpoint(aside) is not None  # nor is it lost
    assert latest_checkpoint(checkpoint_folder(tmp_path, "one")) is None
    assert aside.exists()


def test_an_identity_changes_with_base_form_data_and_params(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    one = training_identity(SETTINGS, "base", "float", tmp_path)
    others = [
        training_identity(SETTINGS, "other", "float", tmp_path),
        training_identity(SETTINGS, "base", "nf4_dequantized", tmp_path),
        training_identity(SETTINGS.model_copy(update={"seed": 9}), "base", "float", tmp_path),
    ]
    (tmp_path / "manifest.json").write_text("[]")
    others.append(training_identity(SETTINGS, "base", "float", tmp_path))
    assert len({one, *others}) == 5


@pytest.mark.slow
def test_a_loss_that_is_lost_stops_before_the_step(tiny: Tiny, tmp_path: Path) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def lost(module: nn.Module, pack: Pack) -> Tensor:
        return summed_cross_entropy(module, pack) * (float("nan") if module.training else 1.0)

    with pytest.raises(DataError, match="loss is nan at step 1"):
        train(model, batches(), batches(), lost, SETTINGS, scratch=tmp_path, identity="a")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.slow
def test_a_gradient_that_is_lost_stops_before_the_step(tiny: Tiny, tmp_path: Path) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DataError, match=r"norm is (nan|inf) at step 1"):
        train(
            model, batches(), batches(), summed_cross_entropy, SETTINGS,
            scratch=tmp_path, identity="a",
        )  # fmt: skip
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.slow
def test_a_loss_that_explodes_stops_and_keeps_the_last_checkpoint(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    steps = 0

    def exploding(module: nn.Module, pack: Pack) -> Tensor:
        nonlocal steps
        steps += module.training
        return summed_cross_entropy(module, pack) * (50.0 if steps > 9 else 1.0)

    with pytest.raises(DataError, match=r"at step \d+; expected a finite number up to"):
        train(model, batches(), batches()[:1], exploding, SETTINGS, scratch=tmp_path, identity="a")
    assert latest_checkpoint(tmp_path / "checkpoints" / "a") is not None


@pytest.mark.slow
def test_out_of_memory_halves_the_packs_and_keeps_the_batch(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = run(tiny, tmp_path / "straight")
    model = make("llama", tiny).model
    use_packed_attention(model)

    def small_device(module: nn.Module, pack: Pack) -> Tensor:
        if module.training and pack.tokens > 40:
            raise torch.OutOfMemoryError("no room for it")
        return summed_cross_entropy(module, pack)

    held_out = make_batches(examples(3), SETTINGS, max_tokens=64)
    with caplog.at_level("WARNING"):
        train(
            model, batches(), held_out, small_device, SETTINGS,
            scratch=tmp_path / "small", identity="a",
        )  # fmt: skip
    assert "packs of at most" in caplog.text
    assert "the batch stays 2 examples" in caplog.text
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, straight[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_examples_that_are_alone_already_are_not_packed_when_memory_runs_out(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = make("llama", tiny).model  # which does not attend by packs

    def small_device(module: nn.Module, pack: Pack) -> Tensor:
        assert pack.examples == 1
        if module.training and begun and pack.tokens > 12:
            raise torch.OutOfMemoryError("no room for it")
        begun.extend([1] * (not module.training))
        return summed_cross_entropy(module, pack)

    begun: list[int] = []
    alone = [batch.repacked(1) for batch in batches()]
    with pytest.raises(DeviceError, match=r"an example of \d+ tokens does not fit"):
        train(
            model, alone, alone[:1], small_device, SETTINGS, scratch=tmp_path, identity="a"
        )  # fmt: skip


@pytest.mark.slow
def test_an_example_too_large_for_the_device_is_named(tiny: Tiny, tmp_path: Path) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)

    def no_device(module: nn.Module, pack: Pack) -> Tensor:
        if module.training and torch.is_grad_enabled() and calls:
            raise torch.OutOfMemoryError("no room at all")
        return summed_cross_entropy(module, pack)

    calls: list[int] = []

    def measured_first(module: nn.Module, pack: Pack) -> Tensor:
        loss = no_device(module, pack)
        if not module.training:
            calls.append(1)  # from the first evaluation on
        return loss

    with pytest.raises(DeviceError, match=r"an example of \d+ tokens does not fit"):
        train(
            model, batches(), batches()[:1], measured_first, SETTINGS,
            scratch=tmp_path, identity="a",
        )  # fmt: skip


def test_nothing_to_validate_on_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = make("llama", tiny).model
    with pytest.raises(DataError, match="0 validation batches"):
        train(model, batches(), [], summed_cross_entropy, SETTINGS, scratch=tmp_path, identity="a")
