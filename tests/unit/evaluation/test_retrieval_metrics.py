"""Retrieval metrics: known values, and records that retrieval cannot be blamed for."""

import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluation.retrieval_metrics import (
    RETRIEVAL_METRICS,
    Ranking,
    ranking_metrics,
    retrieval,
)
from tasks.lexical.chunking import Passage
from tasks.records.schema import Message, Record
from tasks.retrieval.index import ScoredPassage


def record(name: str, documents: tuple[str, ...] = ()) -> Record:
    turns = (Message("user", "q"), Message("assistant", "a"))
    return Record(name, turns, documents, "s", name, "test", "CC0", "n")


def ranked(*documents: str) -> list[ScoredPassage]:
    return [ScoredPassage(Passage(f"{d}#{n}", d, "", "t"), 1.0) for n, d in enumerate(documents)]


def test_recall_and_reciprocal_rank_have_their_known_values() -> None:
    records = [record("1", ("a",)), record("2", ("a", "b")), record("3", ("a",)), record("4")]
    found = [ranked("a"), ranked("x", "b", "a"), ranked("x"), ranked("x")]
    metrics = retrieval(records, found, {"a": 1, "b": 1, "x": 1})
    assert (metrics["records"], metrics["records_without_gold_document"]) == (3, 0)
    assert metrics["recall_at_1"] == pytest.approx(1 / 3)
    assert metrics["recall_at_5"] == metrics["recall_at_10"] == pytest.approx(2 / 3)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2) / 3)


def test_discounted_gain_has_its_known_value_by_hand() -> None:
    # Gold at ranks 2 and 3 of 3 gold passages: (0.6309 + 0.5) / (1 + 0.6309 + 0.5).
    found = [ranked("x", "서울", "서울", "x")]
    metrics = retrieval([record("1", ("서울",))], found, {"서울": 3, "x": 9})
    assert metrics["ndcg_at_10"] == pytest.approx(1.13093 / 2.13093, abs=1e-5)


def test_documents_of_an_old_index_are_found_in_another_unicode_form() -> None:
    names = ("휴가.md", "Übung", "plain")
    old = [unicodedata.normalize("NFD", name) for name in names]
    metrics = retrieval([record("1", names)], [ranked(*old)], dict.fromkeys(names, 1))
    assert metrics["recall_at_1"] == metrics["ndcg_at_10"] == 1
    row = record("1").as_row() | {"documents": old}
    assert Record.from_row(row).documents == names


def test_the_best_order_of_more_than_ten_gold_passages_is_ten_of_them() -> None:
    assert ranking_metrics([Ranking((True,) * 10, 25)])["ndcg_at_10"] == pytest.approx(1)


def test_what_lies_deeper_than_ten_counts_for_nothing() -> None:
    found = ranking_metrics([Ranking((False,) * 10 + (True,), 1)])
    assert set(found.values()) == {0.0}


def test_a_record_whose_documents_are_gone_is_neither_hit_nor_miss_and_is_counted() -> None:
    records = [record("1", ("a",)), record("2", ("gone",)), record("3", ("gone", "a"))]
    metrics = retrieval(records, [ranked("a")] * 3, {"a": 1})
    assert (metrics["records"], metrics["records_without_gold_document"]) == (2, 1)
    assert metrics["recall_at_1"] == metrics["mrr"] == metrics["ndcg_at_10"] == 1.0


@pytest.mark.parametrize(
    ("item", "indexed", "reason", "gone"),
    [
        (record("1", ("a",)), {}, "no documents", 1),
        (record("1"), {"a": 1}, "no record names", 0),
        (record("1", ("a",)), {"b": 1}, "all gone from the index", 1),
    ],
)
def test_retrieval_that_cannot_be_measured_is_null_with_a_reason(
    item: Record, indexed: dict[str, int], reason: str, gone: int
) -> None:
    metrics: dict[str, Any] = retrieval([item], [[]], indexed)
    assert metrics["records_without_gold_document"] == gone
    for name in RETRIEVAL_METRICS:
        assert metrics[name] is None
        assert reason in metrics[f"{name}_reason"]


@settings(deadline=None)  # the first example imports
@given(st.lists(st.booleans(), max_size=15), st.integers(0, 5))
def test_metrics_stay_in_their_bounds_and_recall_grows_with_depth(
    gold: list[bool], more: int
) -> None:
    found = ranking_metrics([Ranking(tuple(gold), max(1, sum(gold) + more))])
    assert all(0 <= value <= 1 + 1e-12 and math.isfinite(value) for value in found.values())
    assert found["recall_at_1"] <= found["recall_at_5"] <= found["recall_at_10"]
    assert found["recall_at_1"] <= found["mrr"] <= found["recall_at_10"]


@settings(deadline=None)  # the first example imports
@given(st.permutations([True, True, False, False, False]))
def test_the_best_order_alone_has_a_gain_of_one(gold: list[bool]) -> None:
    found = ranking_metrics([Ranking(tuple(gold), 2)])["ndcg_at_10"]
    assert (found == pytest.approx(1)) == (gold[:2] == [True, True])
