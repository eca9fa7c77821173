"""Bootstrap intervals: known answers, and the properties that a comparison leans on."""

import math

import numpy as np
import pytest

from tasks.stage.errors import DataError
from tasks.statistics.bootstrap import (
    bootstrap_mean,
    bootstrap_median_ratio,
    bootstrap_ratio,
    paired_bootstrap,
)


def test_an_interval_agrees_with_the_normal_one_on_many_values() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    interval = bootstrap_mean(values.tolist(), confidence=0.95, resamples=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)


def test_equal_sides_have_no_difference_and_no_width() -> None:
    interval = paired_bootstrap(
        [0.1, 0.9, 0.4], [0.1, 0.9, 0.4], confidence=0.9, resamples=50, seed=1
    )
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_pairing_removes_what_is_hard_for_both() -> None:
    hard = np.random.default_rng(1).uniform(0, 0.9, 200)
    interval = paired_bootstrap(
        (hard + 0.05).tolist(), hard.tolist(), confidence=0.95, resamples=500, seed=1
    )
    assert interval.low == pytest.approx(0.05)


def test_a_swap_of_the_sides_mirrors_the_difference() -> None:
    left, right = [1.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 0.5]
    one = paired_bootstrap(left, right, confidence=0.95, resamples=4000, seed=7)
    other = paired_bootstrap(right, left, confidence=0.95, resamples=4000, seed=7)
    assert (one.value, one.low) == pytest.approx((-other.value, -other.high))


def test_a_seed_gives_the_same_interval_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [0.0, 1.0, 0.5, 0.25]
    whole = bootstrap_mean(values, confidence=0.95, resamples=300, seed=7)
    monkeypatch.setattr("tasks.statistics.bootstrap._BLOCK_VALUES", 40)
    assert bootstrap_mean(values, confidence=0.95, resamples=300, seed=7) == whole


@pytest.mark.parametrize(
    ("left", "right"), [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [0.0]), ([math.inf], [0.0])]
)
def test_what_cannot_be_compared_is_an_error(left: list[float], right: list[float]) -> None:
    with pytest.raises(DataError):
        paired_bootstrap(left, right, confidence=0.95, resamples=10, seed=1)


def test_a_ratio_is_that_of_the_sums_and_its_interval_holds_it() -> None:
    parts, wholes = [1.0, 2.0, 6.0, 3.0] * 20, [2.0, 4.0, 8.0, 8.0] * 20
    found = bootstrap_ratio(parts, wholes, confidence=0.95, resamples=2000, seed=1)
    assert found.value == pytest.approx(12 / 22)
    assert found.low < found.value < found.high
    halves = bootstrap_ratio([x / 2 for x in wholes], wholes, confidence=0.9, resamples=99, seed=1)
    assert (halves.low, halves.high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("parts", "wholes", "message"),
    [
        ([1.0], [1.0, 2.0], "same records"),
        ([], [], "at least one value"),
        ([math.nan], [1.0], "not finite"),
        ([1.0, 2.0], [0.0, 0.0], "there is no ratio"),
    ],
)
def test_a_ratio_that_cannot_be_had_is_an_error(
    parts: list[float], wholes: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        bootstrap_ratio(parts, wholes, confidence=0.95, resamples=100, seed=1)


def test_a_ratio_of_medians_lies_in_an_interval_that_is_deterministic() -> None:
    parts, wholes = [2.0, 3.0, 9.0, 2.4, 2.2], [1.0, 1.5, 1.2, 1.1, 4.0]
    found = bootstrap_median_ratio(parts, wholes, confidence=0.95, resamples=2000, seed=3)
    assert found.value == pytest.approx(2.4 / 1.2)
    assert found.low < found.value < found.high
    again = bootstrap_median_ratio(parts, wholes, confidence=0.95, resamples=2000, seed=3)
    assert again == found


def test_what_slows_both_sides_of_a_round_leaves_a_ratio_of_medians_alone() -> None:
    load = np.random.default_rng(2).uniform(1.0, 8.0, 9)
    found = bootstrap_median_ratio(
        (2 * load).tolist(), load.tolist(), confidence=0.95, resamples=500, seed=1
    )
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_an_interval_of_a_ratio_of_medians_holds_the_true_one_as_often_as_it_says() -> None:
    draw = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        parts, wholes = draw.lognormal(0.4, 0.3, 7), draw.lognormal(0.0, 0.3, 7)
        found = bootstrap_median_ratio(
            parts.tolist(), wholes.tolist(), confidence=0.95, resamples=400, seed=seed
        )
        held += found.low <= math.exp(0.4) <= found.high
    assert held >= 180


@pytest.mark.parametrize(
    ("parts", "wholes"), [([], []), ([1.0], [0.0]), ([1.0, 1.0], [1.0, 0.0]), ([math.nan], [1.0])]
)
def test_a_ratio_of_medians_needs_finite_turns_that_took_time(
    parts: list[float], wholes: list[float]
) -> None:
    with pytest.raises(DataError):
        bootstrap_median_ratio(parts, wholes, confidence=0.95, resamples=10, seed=1)
