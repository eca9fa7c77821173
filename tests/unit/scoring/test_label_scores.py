"""Labels are right or wrong; F1, confusions and calibration are those of known answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tasks.scoring.label_scores import BINS, Calibration, Confusion, label_match

LABELS = ("a", "b", "c", "d")
names = st.sampled_from(LABELS)
pairs = st.lists(st.tuples(names, names), min_size=1, max_size=40)


def test_a_label_that_shares_words_with_the_right_one_is_wrong() -> None:
    assert label_match("not spam", "spam") == 0
    assert label_match("Card  Lost ", "card lost") == 1  # such two labels are never in one set


@given(pairs)
def test_scores_by_label_are_those_of_scikit_learn(drawn: list[tuple[str, str]]) -> None:
    outputs, references = zip(*drawn, strict=True)
    found = Confusion.of(outputs, references, LABELS)
    wanted = precision_recall_fscore_support(
        references, outputs, labels=list(LABELS), zero_division=0
    )
    for place, label in enumerate(LABELS):
        own = found.by_label()[label]
        told = [own.precision, own.recall, own.f1, own.support]
        assert told == pytest.approx([float(values[place]) for values in wanted])
    there = sorted(set(references))
    macro = precision_recall_fscore_support(
        references, outputs, labels=there, average="macro", zero_division=0
    )[2]
    assert found.macro_f1() == pytest.approx(macro)
    counts = confusion_matrix(references, outputs, labels=list(LABELS)).tolist()
    assert [list(row[:-1]) for row in found.counts] == counts
    assert found.outside == 0


def test_answers_outside_the_set_are_counted_and_no_label_gets_them() -> None:
    found = Confusion.of(["a", "it is a", "b"], ["a", "a", "b"], ("a", "b"))
    assert found.outside == 1
    assert found.counts == ((1, 0, 1), (0, 1, 0))
    assert found.by_label()["a"].recall == 0.5
    assert found.by_label()["a"].precision == 1.0


def test_a_label_that_was_not_learned_counts_as_never_right() -> None:
    found = Confusion.of(["a", "b", "a"], ["a", "b", "new"], ("a", "b"))
    assert found.labels == ("a", "b", "new")
    assert found.by_label()["new"].f1 == 0.0
    assert found.by_label()["new"].support == 1
    assert found.macro_f1() == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_label_without_records_is_left_out_of_the_mean() -> None:
    assert Confusion.of(["a", "b"], ["a", "b"], LABELS).macro_f1() == 1.0


def test_the_calibration_error_is_that_of_known_answers() -> None:
    # Nine tenths sure and always right; six tenths sure and right in half of the cases.
    found = Calibration.of([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0])
    assert found.ece == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)
    assert [(one.answers, one.accuracy) for one in found.bins] == [(2, 0.5), (2, 1.0)]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_a_calibration_error_is_a_share(drawn: list[tuple[float, bool]]) -> None:
    probabilities, right = zip(*drawn, strict=True)
    found = Calibration.of(probabilities, [float(one) for one in right])
    assert 0 <= found.ece <= 1 + 1e-12
    assert sum(one.answers for one in found.bins) == len(drawn)
    assert len(found.bins) <= BINS


def test_a_model_that_is_always_sure_and_always_wrong_has_the_worst_calibration() -> None:
    assert Calibration.of([1.0, 1.0], [0, 0]).ece == 1.0
