"""Each dial of a training does what its name says, seen in the curves and weights of real ones."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.sequences.attention import use_packed_attention
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch, Pack
from tasks.stage.metrics import read_curve
from tasks.training.batches import make_batches
from tasks.training.loop import TrainingResult, train
from tasks.training.trainer import validation_loss
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples, read_yaml_training

SETTINGS = read_yaml_training().model_copy(
    update={"batch_examples": 2, "evaluations": 4, "patience": 9, "learning_rate": 1e-3}
)
Trained = tuple[TrainingResult, nn.Module]


def run(tiny: Tiny, scratch: Path, max_tokens: int = 64, **changes: object) -> Trained:
    """A training of 16 examples with some params changed, from the same weights every time."""
    params = SETTINGS.model_copy(update=changes)
    torch.manual_seed(0)
    model = make("llama", tiny).model
    use_packed_attention(model)
    result = train(
        model,
        make_batches(examples(16), params, max_tokens=max_tokens),
        make_batches(examples(3), params, max_tokens=64),
        summed_cross_entropy,
        params,
        scratch=scratch,
        identity="a",
    )
    return result, model


def rates(scratch: Path) -> list[float]:
    return [value for _, value in read_curve(scratch, "learning_rate")]


def size(model: nn.Module) -> float:
    return sum(float(weight.detach().square().sum()) for weight in model.parameters())


@pytest.mark.slow
def test_the_rate_rises_in_the_warm_up_and_then_falls_as_its_schedule_says(
    tiny: Tiny, tmp_path: Path
) -> None:
    found = {}
    for schedule in ("cosine", "linear", "constant_with_warmup"):
        run(tiny, tmp_path / schedule, schedule=schedule, warmup_share=0.5, epochs=2)
        found[schedule] = rates(tmp_path / schedule)
        steps = len(found[schedule])
        rising, falling = found[schedule][: steps // 2 + 1], found[schedule][steps // 2 :]
        assert rising == pytest.approx([1e-3 * step / (steps // 2) for step in range(len(rising))])
        assert falling == sorted(falling, reverse=True)
    assert set(found["constant_with_warmup"][steps // 2 :]) == {1e-3}
    falls = [one - other for one, other in pairwise(found["linear"][8:])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    halfway = len(falls) // 4  # a cosine stays above the line at first, and ends below it
    assert found["cosine"][8 + halfway] > found["linear"][8 + halfway]
    assert found["cosine"][-2] < found["linear"][-2]


@pytest.mark.slow
def test_weight_decay_makes_the_weights_smaller(tiny: Tiny, tmp_path: Path) -> None:
    _, plain = run(tiny, tmp_path / "plain", weight_decay=0.0)
    _, decayed = run(tiny, tmp_path / "decayed", weight_decay=1.0)
    assert size(decayed) < 0.999 * size(plain)


@pytest.mark.slow
def test_a_clipped_gradient_moves_the_weights_as_far_as_its_bound_allows(
    tiny: Tiny, tmp_path: Path
) -> None:
    # AdamW forgets the size of gradients, so the optimizer must not see it: its moments tell.
    _, free = run(tiny, tmp_path / "free", max_gradient_norm=1e6)
    _, clipped = run(tiny, tmp_path / "clipped", max_gradient_norm=1e-9)
    start = make("llama", tiny).model
    assert _moved(clipped, start) < 0.5 * _moved(free, start)
    norms = [value for _, value in read_curve(tmp_path / "clipped", "gradient_norm")]
    assert min(norms) > 1e-3  # the curve tells the norm before it is clipped


def _moved(model: nn.Module, start: nn.Module) -> float:
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return sum(float((one.detach() - other.detach()).abs().sum()) for one, other in pairs)


@pytest.mark.slow
def test_a_batch_in_many_packs_takes_the_step_of_one_pack(tiny: Tiny, tmp_path: Path) -> None:
    _, whole = run(tiny, tmp_path / "whole", max_tokens=4096)
    _, parts = run(tiny, tmp_path / "parts", max_tokens=1)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-5)


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best_weights(tiny: Tiny, tmp_path: Path) -> None:
    params = SETTINGS.model_copy(
        update={
            "epochs": 6,
            "evaluations": 12,
            "patience": 2,
            "max_loss_growth": 1e9,
            "schedule": "constant_with_warmup",
        }
    )
    batches = make_batches(examples(16), params, max_tokens=64)
    held_out = make_batches(examples(3), params, max_tokens=64)
    model = make("llama", tiny).model
    use_packed_attention(model)
    worse = Worsening(batches, from_step=16)
    result = train(model, batches, held_out, worse, params, scratch=tmp_path, identity="a")
    losses = [value for step, value in read_curve(tmp_path, "validation_loss") if step]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + params.patience  # stopped, two evaluations after its best
    assert result.steps < len(batches) * params.epochs
    assert result.best_validation_loss == min(losses)
    kept = validation_loss(model, held_out, summed_cross_entropy)
    assert kept == pytest.approx(min(losses), rel=1e-6)


class KilledError(Exception):
    """Stands for a kill."""


def best_at_16(tiny: Tiny, scratch: Path, kill_at: int | None = None) -> Trained:
    """A training that is evaluated every four steps and best at step 16, with a patience of 2."""
    params = SETTINGS.model_copy(
        update={"epochs": 6, "evaluations": 12, "patience": 2, "learning_rate": 1e-4}
    )
    model = make("llama", tiny).model
    use_packed_attention(model)

    def loss(module: nn.Module, pack: Pack) -> Tensor:
        steps = len(read_curve(scratch, "loss"))
        if module.training and kill_at is not None and steps >= kill_at:
            raise KilledError
        if module.training:
            return summed_cross_entropy(module, pack)
        return torch.tensor((10.0 + abs(16 - steps)) * len(pack.targets))

    batches = make_batches(examples(16), params, max_tokens=4096)
    held_out = make_batches(examples(3), params, max_tokens=64)
    result = train(model, batches, held_out, loss, params, scratch=scratch, identity="a")
    return result, model


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [21, None])
def test_a_training_killed_on_its_way_to_an_early_stop_stops_where_it_would_have(
    kill_at: int | None, tiny: Tiny, tmp_path: Path
) -> None:
    """Killed after one evaluation without a gain, or when it had stopped already."""
    result, model = best_at_16(tiny, tmp_path / "one")
    assert (result.steps, result.best_validation_loss) == (24, 10.0)
    with suppress(KilledError):
        best_at_16(tiny, tmp_path / "two", kill_at)
    taken = len(read_curve(tmp_path / "two", "loss"))
    assert taken == (kill_at or 24)
    again, resumed = best_at_16(tiny, tmp_path / "two")
    assert again == result
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    for name in ("loss", "validation_loss"):
        assert read_curve(tmp_path / "one", name) == read_curve(tmp_path / "two", name)


@pytest.mark.slow
def test_no_evaluation_stops_a_training_before_what_it_is_validated_on(
    tiny: Tiny, tmp_path: Path
) -> None:
    params = SETTINGS.model_copy(
        update={"evaluations": 8, "patience": 1, "max_loss_growth": 1e9, "learning_rate": 1e-2}
    )
    batches = make_batches(examples(16), params, max_tokens=64)
    held_out = make_batches(examples(3), params, max_tokens=64)
    steps = []
    for leading in (0, 6):
        model = make("llama", tiny).model
        use_packed_attention(model)
        scratch = tmp_path / str(leading)
        result = train(
            model, batches, held_out, Worsening(batches, from_step=0), params, scratch=scratch,
            identity="a", leading=leading,
        )  # fmt: skip
        steps.append(result.steps)
        led = [step for step, _ in read_curve(scratch, "leading_loss")]
        assert led == list(range(1, leading + 1))
    assert steps[0] < 6 < steps[1]


class Worsening:
    """A loss that trains away from the data after so many steps."""

    def __init__(self, batches: list[Batch], from_step: int) -> None:
        self._left = from_step * sum(len(batch.packs) for batch in batches) / len(batches)
        self._begun = False

    def __call__(self, model: nn.Module, pack: Pack) -> Tensor:
        loss = summed_cross_entropy(model, pack)
        self._begun = self._begun or not model.training
        if not model.training or not self._begun:
            return loss
        self._left -= 1
        return loss if self._left > 0 else 2 * loss.detach() - loss
