"""The student that is offered: the smallest that keeps enough, or its control."""

from pathlib import Path

import pytest

from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.student_choice import Offer, StudentScores, rank_offers
from tasks.stage.params import read_yaml

PARAMS = EvaluationParams.model_validate(
    read_yaml(Path("params/evaluation.yaml")) | {"resamples": 200, "student_keeps": 0.9}
)
ADAPTER = (0.9, 1.0, 0.8, 0.9)


def choose(
    pairs: list[StudentScores], adapter: tuple[float, ...], params: EvaluationParams
) -> Offer:
    return rank_offers(pairs, adapter, params)[0]


def pair(name: str, parameters: int, student: float, control: float) -> StudentScores:
    return StudentScores(name, parameters, (student,) * 4, (control,) * 4)


def test_the_smallest_that_keeps_enough_is_offered_whatever_the_order() -> None:
    pairs = [pair("24", 24, 0.88, 0.8), pair("16", 16, 0.5, 0.4), pair("20", 20, 0.82, 0.8)]
    offer = choose(pairs, ADAPTER, PARAMS)
    assert (offer.name, offer.system, offer.keeps_enough) == ("20", "student", True)
    assert offer.retention is not None
    assert offer.retention.value == pytest.approx(0.82 / 0.9)
    assert offer.retention.low < offer.retention.value < offer.retention.high
    assert offer.gain.value == pytest.approx(0.02)
    assert offer.numbers()["folder"] == "20/student"


def test_where_none_keeps_enough_the_best_is_offered_and_the_offer_says_so() -> None:
    offer = choose([pair("16", 16, 0.4, 0.3), pair("24", 24, 0.7, 0.6)], ADAPTER, PARAMS)
    assert (offer.name, offer.keeps_enough) == ("24", False)


@pytest.mark.parametrize("student", [0.85, 0.80])
def test_a_student_that_does_not_beat_its_control_gives_way_to_it(student: float) -> None:
    offer = choose([pair("24", 24, student, 0.85)], ADAPTER, PARAMS)
    assert offer.system == "control"
    assert offer.text.startswith("distillation did not beat training without a teacher")
    assert offer.numbers()["folder"] == "24/control"


def test_a_control_counts_for_what_a_pair_keeps() -> None:
    pairs = [pair("16", 16, 0.5, 0.85), pair("24", 24, 0.9, 0.8)]
    offer = choose(pairs, ADAPTER, PARAMS)
    assert (offer.name, offer.system, offer.keeps_enough) == ("16", "control", True)


def test_every_pair_has_its_figures() -> None:
    found = rank_offers([pair("16", 16, 0.5, 0.6), pair("24", 24, 0.9, 0.8)], ADAPTER, PARAMS)
    assert [offer.name for offer in found] == ["24", "16"]
    kept, offered = found[1].retention, found[1].offered_retention
    assert kept is not None
    assert offered is not None
    assert (kept.value, offered.value) == pytest.approx((0.5 / 0.9, 0.6 / 0.9))


def test_a_gain_that_chance_could_make_is_told_as_one() -> None:
    uneven = StudentScores("24", 24, (1.0, 0.7, 0.9, 0.9), (0.8, 0.9, 0.8, 0.9))
    assert "this may be chance" in choose([uneven], ADAPTER, PARAMS).text


def test_an_adapter_that_scores_nothing_leaves_retention_null_with_a_reason() -> None:
    offer = choose([pair("24", 24, 0.1, 0.0)], (0.0,) * 4, PARAMS)
    assert offer.retention is None
    assert not offer.keeps_enough
    assert offer.numbers()["retention_reason"]
    assert offer.numbers()["offered_retention_reason"]
