"""The fit report names what the curves say, on known ones and on real trainings."""

import random
from pathlib import Path

import pytest
import torch

from tasks.sequences.attention import use_packed_attention
from tasks.sequences.examples import Example
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.training.batches import make_batches
from tasks.training.diagnostics import diagnose_fit, fit_of
from tasks.training.loop import train
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import example, read_yaml_training

SETTINGS = read_yaml_training()


def line(first: float, last: float, steps: int = 20) -> list[tuple[int, float]]:
    return [(step + 1, first + (last - first) * step / (steps - 1)) for step in range(steps)]


@pytest.mark.parametrize(
    ("training", "validation", "verdict", "said"),
    [
        (line(2.0, 0.9), [(10, 1.2), (15, 1.0), (20, 0.99)], "good", "level"),
        (line(2.0, 1.0), [(10, 1.6), (15, 1.3), (20, 1.1)], "underfitted", "still fell"),
        (line(2.0, 0.8), [(10, 1.0), (15, 1.2), (20, 1.4)], "overfitted", "best one is kept"),
        (line(2.0, 0.1), [(10, 1.0), (15, 0.99), (20, 0.99)], "overfitted", "is the examples"),
        (line(2.0, 2.0), [(10, 2.0), (20, 2.01)], "not_learning", "2.000 before"),
    ],
)
def test_known_curves(
    training: list[tuple[int, float]],
    validation: list[tuple[int, float]],
    verdict: str,
    said: str,
) -> None:
    fit = diagnose_fit(training, validation, 2.0)
    assert (fit.verdict, said in fit.reason) == (verdict, True)


def test_one_evaluation_leaves_the_training_loss_to_tell_whether_it_was_still_falling() -> None:
    level = [*line(2.0, 1.0, 10), *line(1.0, 0.99, 30)]
    assert diagnose_fit(level, [(40, 1.1)], 2.0).verdict == "good"
    falling = diagnose_fit(line(2.0, 1.0, 40), [(40, 1.1)], 2.0)
    assert (falling.verdict, "training loss still fell" in falling.reason) == ("underfitted", True)


def test_what_to_turn_depends_on_where_the_training_loss_went() -> None:
    flat = diagnose_fit(line(2.0, 2.0), [(20, 2.0)], 2.0)
    risen = diagnose_fit(line(2.0, 6.0), [(20, 5.0)], 2.0)
    assert "raise learning_rate" in flat.dial
    assert "lower learning_rate" in risen.dial


def few_words(count: int, seed: int) -> list[Example]:
    """Examples out of thirty tokens: which ones there are can be learned, their order not."""
    draw = random.Random(seed)
    rows = [tuple(draw.randrange(10, 40) for _ in range(20)) for _ in range(count)]
    return [example(f"{seed}-{n}", row, 4, f"{seed}-{n}", "n1") for n, row in enumerate(rows)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"learning_rate": 1e-6, "epochs": 1}, "not_learning"),
        ({"learning_rate": 1e-3, "schedule": "constant_with_warmup"}, "underfitted"),
        ({"learning_rate": 1e-2, "epochs": 12, "patience": 9, "evaluations": 6}, "overfitted"),
    ],
)
def test_a_real_training_is_named(
    changes: dict[str, float], verdict: str, tiny: Tiny, tmp_path: Path
) -> None:
    params = SETTINGS.model_copy(update=changes)
    torch.manual_seed(0)
    model = make("llama", tiny).model
    use_packed_attention(model)
    learned, held_out = few_words(16, 1), few_words(5, 2)
    result = train(
        model,
        make_batches(learned, params, max_tokens=256),
        make_batches(held_out, params, max_tokens=256),
        summed_cross_entropy,
        params,
        scratch=tmp_path,
        identity="fit",
    )
    assert fit_of(tmp_path, result.initial_validation_loss).verdict == verdict
