"""Paired tests: known answers, scipy's own, and nothing green where nothing was seen."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.stage.errors import DataError
from tasks.statistics.bootstrap import bootstrap_ratios, on_grid, paired_bootstrap
from tasks.statistics.significance import (
    Inference,
    compare_systems,
    holm,
    sign_flip_p_values,
    smallest_detectable,
)

INFERENCE = Inference(confidence=0.95, power=0.8, resamples=2000, seed=5)


def p_value(differences: list[float], resamples: int = 2000, seed: int = 5) -> float:
    column = np.array(differences)[:, None]
    return sign_flip_p_values(column, resamples=resamples, seed=seed)[0]


def test_few_differences_have_their_exact_p_value() -> None:
    # Of the 16 patterns of +-1 +-2 +-3 +-4 only the two without a minus or a plus reach 10.
    assert p_value([1, 2, 3, 4]) == 2 / 16
    assert p_value([0.1] * 6) == 2 / 64
    assert p_value([0.5]) == 1.0


def test_zeros_neither_add_nor_take_evidence() -> None:
    assert p_value([0.3, 0.2, 0.0, 0.4] + [0.0] * 500) == p_value([0.3, 0.2, 0.4])


def test_equal_scores_have_a_p_value_of_one() -> None:
    assert p_value([0.0] * 300) == 1.0


@settings(deadline=None)  # the first example imports
@given(st.lists(st.sampled_from([-1.0, -0.3, -0.1, 0.0, 0.1, 0.2, 1.0]), min_size=1, max_size=9))
def test_the_exact_p_value_is_a_count_over_all_patterns(differences: list[float]) -> None:
    # In tenths, whose sums are exact: ties must count as ties.
    tenths = [round(10 * value) for value in differences]
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, tenths, strict=True)))
        for signs in product((1, -1), repeat=len(tenths))
    ]
    expected = sum(found >= abs(sum(tenths)) for found in sums) / len(sums)
    assert p_value(differences) == pytest.approx(expected)


def test_the_p_value_is_scipys() -> None:
    draw = np.random.default_rng(2)
    for size in (8, 40):
        differences = draw.normal(0.2, 0.5, size)
        theirs = stats.permutation_test(
            (differences,),
            lambda values, axis: np.mean(values, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=20_000,
            rng=np.random.default_rng(3),
        ).pvalue
        ours = p_value(differences.tolist(), resamples=20_000)
        # Exact for eight; drawn for forty, where 4 standard errors are allowed.
        allowed = 0 if size == 8 else 4 * math.sqrt(2 * theirs / 20_000)
        assert ours == pytest.approx(theirs, abs=allowed)


def test_alike_systems_are_called_different_as_often_as_the_level_says() -> None:
    differences = np.random.default_rng(4).normal(0, 1, (30, 1000))
    found = np.array(sign_flip_p_values(differences, resamples=1000, seed=1))
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.021)


def test_a_drawn_p_value_is_never_zero_and_is_the_seeds() -> None:
    differences = np.random.default_rng(0).normal(5, 0.1, 60).tolist()
    assert p_value(differences) == 1 / 2001
    mixed = np.random.default_rng(0).normal(0.1, 1, 60).tolist()
    assert p_value(mixed) == p_value(mixed)
    assert p_value(mixed) != p_value(mixed, seed=6)
    assert p_value(mixed) == p_value([-value for value in mixed])


def test_blocks_of_any_size_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = np.random.default_rng(0).normal(0.1, 1, 70).tolist()
    whole = p_value(mixed)
    monkeypatch.setattr("tasks.statistics.bootstrap._BLOCK_VALUES", 700)
    assert p_value(mixed) == whole


@pytest.mark.parametrize("differences", [[], [math.nan], [1.0, math.inf]])
def test_what_cannot_be_tested_is_an_error(differences: list[float]) -> None:
    with pytest.raises(DataError, match="at least one and only finite"):
        p_value(differences)


def test_holms_correction_has_its_known_values() -> None:
    # 4 x 0.01, 3 x 0.02, then 2 x 0.02 and 1 x 0.04, which may not fall below 0.06.
    assert holm([0.02, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@settings(deadline=None)  # the first example imports
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_order(p: list[float]) -> None:
    found = holm(p)
    for raw, corrected in zip(p, found, strict=True):
        assert raw <= corrected <= min(1.0, len(p) * raw)
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [found[at] for at in order] == sorted(found)


@pytest.mark.parametrize("size", [5, 20, 100, 1000])
def test_the_smallest_detectable_difference_is_found_with_the_power_it_names(size: int) -> None:
    differences = np.random.default_rng(1).normal(0, 0.3, size)
    shown = smallest_detectable(differences.tolist(), alpha=0.05, power=0.8).value
    assert shown is not None
    # The power of a t test at that difference, by the noncentral t distribution.
    shift = shown / (differences.std(ddof=1) / math.sqrt(size))
    bound = stats.t.ppf(0.975, size - 1)
    assert stats.nct.sf(bound, size - 1, shift) == pytest.approx(0.8, abs=0.02)


def test_four_times_the_records_show_half_the_difference() -> None:
    values = np.random.default_rng(1).normal(0, 0.3, 400).tolist()
    one = smallest_detectable(values, alpha=0.05, power=0.8).value
    four = smallest_detectable(values * 4, alpha=0.05, power=0.8).value
    assert one is not None
    assert four == pytest.approx(one / 2, rel=0.01)


@pytest.mark.parametrize(
    ("differences", "reason"),
    [
        ([], "0 records"),
        ([0.2], "1 records"),
        ([0.0] * 9, "no variance was seen: all 9 differences are +0"),
        # The same difference, but for how doubles round.
        ([0.3 - 0.2, 0.2 - 0.1, 0.1], "no variance was seen"),
    ],
)
def test_power_without_variance_is_no_number(differences: list[float], reason: str) -> None:
    shown = smallest_detectable(differences, alpha=0.05, power=0.8)
    assert shown.value is None
    assert shown.reason is not None
    assert shown.reason.startswith(reason)


def test_sums_on_the_grid_are_exact_in_any_order() -> None:
    values = on_grid(np.random.default_rng(0).uniform(-1, 1, 100_000), 1.0)
    assert values.sum() == np.sort(values).sum() == math.fsum(values)
    assert on_grid(np.array([0.1 + 0.2 - 0.3]), 1.0)[0] == 0


def test_columns_share_draws_and_each_is_what_it_is_alone() -> None:
    draw = np.random.default_rng(3)
    parts, wholes = draw.uniform(0, 1, (50, 3)), draw.uniform(0.5, 1, (50, 3))
    both = bootstrap_ratios(parts, wholes, confidence=0.9, resamples=300, seed=1)
    for at in range(3):
        alone = bootstrap_ratios(
            parts[:, [at]], wholes[:, [at]], confidence=0.9, resamples=300, seed=1
        )
        assert (both[at].low, both[at].high) == pytest.approx((alone[0].low, alone[0].high))


def scored(size: int, seed: int = 0, systems: str = "ab") -> dict[str, dict[str, float]]:
    draw = np.random.default_rng(seed)
    return {
        name: {f"r{at}": float(value) for at, value in enumerate(draw.uniform(0, 1, size))}
        for name in systems
    }


def sliced(size: int, slices: int = 2) -> dict[str, str]:
    return {f"r{at}": f"slice{at % slices}" for at in range(size)}


def test_a_comparison_agrees_with_each_of_its_parts() -> None:
    scores = scored(40)
    found = compare_systems(scores, [("a", "b")], sliced(40), INFERENCE)[("a", "b")]
    records = sorted(scores["a"])
    left, right = ([scores[name][record] for record in records] for name in "ab")
    interval = paired_bootstrap(left, right, confidence=0.95, resamples=2000, seed=5)
    whole = found.whole
    assert (whole.difference, whole.low, whole.high) == pytest.approx(
        (interval.value, interval.low, interval.high)
    )
    differences = [one - other for one, other in zip(left, right, strict=True)]
    assert whole.p_value == whole.p_value_holm == p_value(differences)
    shown = smallest_detectable(differences, alpha=0.05, power=0.8)
    assert whole.smallest_detectable == shown.value
    assert "smallest_detectable_reason" not in whole.numbers()


def test_a_slice_is_compared_on_its_own_records() -> None:
    scores = scored(40)
    for record in list(scores["a"])[::2]:
        scores["b"][record] = scores["a"][record]
    found = compare_systems(scores, [("a", "b")], sliced(40), INFERENCE)[("a", "b")].slices
    same, other = found["slice0"], found["slice1"]
    assert (same.records, same.difference, same.low, same.high, same.p_value) == (20, 0, 0, 0, 1)
    assert same.smallest_detectable is None
    assert "no variance" in str(same.numbers()["smallest_detectable_reason"])
    assert other.low < other.difference < other.high
    assert other.p_value_holm == min(1.0, 2 * other.p_value)


def test_pairs_are_corrected_as_one_family() -> None:
    scores = scored(30, systems="abc")
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    found = compare_systems(scores, pairs, sliced(30), INFERENCE)
    wholes = [found[pair].whole for pair in pairs]
    assert [one.p_value_holm for one in wholes] == holm([one.p_value for one in wholes])


def test_a_comparison_does_not_depend_on_the_order_of_records() -> None:
    scores, slices = scored(30), sliced(30)
    turned = {name: dict(reversed(rows.items())) for name, rows in scores.items()}
    again = dict(reversed(slices.items()))
    pairs = [("a", "b")]
    one = compare_systems(scores, pairs, slices, INFERENCE)
    assert compare_systems(turned, pairs, again, INFERENCE) == one


def test_systems_that_are_equal_are_told_so() -> None:
    scores = {"a": dict.fromkeys(sliced(12), 0.1 + 0.2), "b": dict.fromkeys(sliced(12), 0.3)}
    whole = compare_systems(scores, [("a", "b")], sliced(12), INFERENCE)[("a", "b")].whole
    assert whole.low == whole.high == whole.difference == pytest.approx(0)
    assert whole.p_value == whole.p_value_holm == 1.0
    assert whole.smallest_detectable is None


@pytest.mark.parametrize("size", [1, 2])
def test_the_fewest_records_are_never_sure(size: int) -> None:
    scores = {"a": dict.fromkeys(sliced(size), 1.0), "b": dict.fromkeys(sliced(size), 0.0)}
    whole = compare_systems(scores, [("a", "b")], sliced(size), INFERENCE)[("a", "b")].whole
    assert whole.p_value >= 0.5
    assert whole.smallest_detectable is None


def test_other_records_or_none_are_an_error() -> None:
    scores = scored(5)
    del scores["b"]["r3"]
    with pytest.raises(DataError, match=r"b was scored on other records.*r3"):
        compare_systems(scores, [("a", "b")], sliced(5), INFERENCE)
    with pytest.raises(DataError, match="0 records"):
        compare_systems({"a": {}, "b": {}}, [("a", "b")], {}, INFERENCE)
    lost = scored(5)
    lost["a"]["r0"] = math.nan
    with pytest.raises(DataError, match="not finite"):
        compare_systems(lost, [("a", "b")], sliced(5), INFERENCE)
