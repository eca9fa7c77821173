"""Losses: what is ruled out, what is shown, what so few records leave open."""

import numpy as np
import pytest
from scipy import stats

from tasks.statistics.bootstrap import Bootstrap, bootstrap_ratios, wilson
from tasks.statistics.noninferiority import LossTest, Pairs, records_needed

TEST = LossTest(confidence=0.95, power=0.8, bootstrap=Bootstrap(2000, 3))


def pairs(differences: np.ndarray, slices: str = "s") -> Pairs:
    return Pairs(differences, np.ones(len(differences)), slices * len(differences))


def spread(size: int, mean: float, deviation: float, seed: int = 0) -> np.ndarray:
    """Differences with exactly this mean and deviation."""
    drawn = np.random.default_rng(seed).normal(size=size)
    standard = (drawn - drawn.mean()) / drawn.std(ddof=1)
    return mean + deviation * standard


@pytest.mark.parametrize(
    ("size", "mean", "deviation", "conclusion"),
    [
        (100, 0.0, 0.2, "not_worse"),
        (100, 0.3, 0.2, "not_worse"),
        (100, -0.2, 0.2, "worse"),
        (100, -0.09, 0.2, "unproven"),
        (100, 0.0, 0.8, "underpowered"),
        (28, 0.0, 0.0, "underpowered"),
        (29, 0.0, 0.0, "not_worse"),
    ],
)
def test_a_loss_of_a_tenth(size: int, mean: float, deviation: float, conclusion: str) -> None:
    found = TEST.whole(pairs(spread(size, mean, deviation)), 0.1)
    assert found.conclusion == conclusion
    assert found.records == size
    assert found.interval.value == pytest.approx(mean)


def test_the_bounds_are_those_of_the_interval_of_twice_the_level() -> None:
    values = spread(80, -0.05, 0.3)
    found = TEST.whole(pairs(values), 0.1)
    [same] = bootstrap_ratios(
        values[:, None], np.ones((80, 1)), confidence=0.9, resamples=2000, seed=3
    )
    assert (found.interval.low, found.interval.high) == pytest.approx((same.low, same.high))


def test_a_loss_on_the_margin_is_ruled_out_no_more_often_than_the_level_says() -> None:
    """Of 300 draws from losses as skewed as they come: nothing, or everything."""
    numbers = np.random.default_rng(1)
    ruled_out = shown = 0
    for _ in range(300):
        lost = -(numbers.random(60) < 0.1).astype(float)
        conclusion = TEST.whole(pairs(lost), 0.1).conclusion
        ruled_out += conclusion == "not_worse"
        shown += conclusion == "worse"
    assert stats.binomtest(ruled_out, 300, 0.05, alternative="greater").pvalue > 0.01
    assert stats.binomtest(shown, 300, 0.05, alternative="greater").pvalue > 0.01


def test_more_slices_make_each_harder_to_clear_and_harder_to_blame() -> None:
    values = spread(30, -0.1, 0.25)
    alone = TEST.slices(pairs(values), 0.25)["s"]
    eight = TEST.slices(Pairs(np.repeat(values, 8), np.ones(240), "abcdefgh" * 30), 0.25)
    assert alone.conclusion == "not_worse"
    assert all(found.p_loss > alone.p_loss for found in eight.values())
    assert all(found.p_no_loss >= alone.p_no_loss for found in eight.values())


def test_a_slice_is_tested_on_its_own_records_alone() -> None:
    labels = "ab" * 30
    values = np.where(np.array(list(labels)) == "a", 0.0, -0.9) + spread(60, 0, 0.01)
    found = TEST.slices(Pairs(values, np.ones(60), labels), 0.25)
    assert (found["a"].conclusion, found["b"].conclusion) == ("not_worse", "worse")
    assert found["a"].records == found["b"].records == 30


@pytest.mark.parametrize(("size", "conclusion"), [(1, "underpowered"), (2, "underpowered"),
                                                (3, "worse")])  # fmt: skip
def test_how_many_lost_answers_it_takes_to_blame_a_slice(size: int, conclusion: str) -> None:
    assert TEST.slices(pairs(np.full(size, -1.0)), 0.25)["s"].conclusion == conclusion


def test_a_ratio_weighs_records_by_their_wholes() -> None:
    wholes = np.array([1.0, 9.0] * 40)
    found = TEST.whole(Pairs(np.array([-1.0, 0.9] * 40), wholes, "s" * 80), 0.1)
    assert found.interval.value == pytest.approx(-0.1 / 10)
    # The delta method's standard error of the ratio.
    rest = np.array([-1.0, 0.9] * 40) - found.interval.value * wholes
    error = rest.std(ddof=1) / wholes.mean() / np.sqrt(80)
    quantiles = stats.t.ppf(0.95, 79) + stats.t.ppf(0.8, 79)
    assert found.smallest_detectable == pytest.approx(quantiles * error)


def test_the_records_that_are_asked_for_suffice() -> None:
    few = TEST.whole(pairs(spread(40, 0.0, 0.5)), 0.1)
    assert few.conclusion == "underpowered"
    enough = TEST.whole(pairs(spread(records_needed(few, 0.95), 0.0, 0.5)), 0.1)
    assert enough.conclusion == "not_worse"
    assert records_needed(TEST.whole(pairs(np.zeros(5)), 0.1), 0.95) == 29


def test_a_second_question_about_as_many_records_has_the_same_draws() -> None:
    bootstrap = Bootstrap(500, 9)
    values, ones = spread(50, 0, 1)[:, None], np.ones((50, 1))
    first = bootstrap.ratios(values, ones)
    bootstrap.ratios(np.zeros((51, 1)), np.ones((51, 1)))
    assert (bootstrap.ratios(values, ones) == first).all()
    assert (Bootstrap(500, 9).ratios(values, ones) == first).all()
    assert (Bootstrap(500, 8).ratios(values, ones) != first).any()


@pytest.mark.parametrize(
    ("count", "records", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (8, 8, 0.6756, 1)],
)
def test_a_shares_interval_has_its_known_values(
    count: int, records: int, low: float, high: float
) -> None:
    """Newcombe 1998, Interval estimation for the single proportion, table I, method 3."""
    found = wilson(count, records, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == count / records
