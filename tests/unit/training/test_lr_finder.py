"""The range test finds a rate that learns, and leaves no trace."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.sequences.attention import use_packed_attention
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Pack
from tasks.stage.errors import ConfigError
from tasks.training.batches import make_batches
from tasks.training.loop import train
from tasks.training.lr_finder import find_learning_rate
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import read_yaml_training
from tests.unit.training.test_diagnostics import few_words

pytestmark = pytest.mark.slow

SETTINGS = read_yaml_training()


def test_the_weights_and_the_random_numbers_stay_as_they_are(tiny: Tiny) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(3)
    batches = make_batches(few_words(16, 1), SETTINGS, max_tokens=256)
    rate = find_learning_rate(model, batches, summed_cross_entropy)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert 1e-5 < rate < 1e-1
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_loss_that_no_rate_lowers_gives_no_rate(tiny: Tiny) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    batches = make_batches(few_words(16, 1), SETTINGS, max_tokens=256)

    def away(module: nn.Module, pack: Pack) -> Tensor:
        loss = summed_cross_entropy(module, pack)
        return 2 * loss.detach() - loss  # its value, and the opposite of its gradient

    with pytest.raises(ConfigError, match=r"no learning rate from 1e-06 to 0\.1"):
        find_learning_rate(model, batches, away)


def test_the_test_goes_on_in_smaller_packs_when_memory_runs_out(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("llama", tiny).model
    use_packed_attention(model)
    batches = make_batches(few_words(16, 1), SETTINGS, max_tokens=256)
    whole = find_learning_rate(model, batches, summed_cross_entropy)

    def small_device(module: nn.Module, pack: Pack) -> Tensor:
        if pack.tokens > 40:
            raise torch.OutOfMemoryError("no room for it")
        return summed_cross_entropy(module, pack)

    assert find_learning_rate(model, batches, small_device) == pytest.approx(whole)
    assert "packs of at most" in caplog.text


def test_the_rate_that_is_found_learns_better_than_one_far_from_it(
    tiny: Tiny, tmp_path: Path
) -> None:
    losses = {}
    for rate in ("find", 1e-6, 1.0):
        model = make("llama", tiny).model
        use_packed_attention(model)
        params = SETTINGS.model_copy(
            update={"learning_rate": rate, "epochs": 3, "max_loss_growth": 1e9}
        )
        result = train(
            model,
            make_batches(few_words(16, 1), params, max_tokens=256),
            make_batches(few_words(5, 2), params, max_tokens=256),
            summed_cross_entropy,
            params,
            scratch=tmp_path / str(rate),
            identity="a",
        )
        losses[rate] = result.best_validation_loss
    assert losses["find"] < min(losses[1e-6], losses[1.0])
