"""Dense search: exact is brute force's order, and approximate search says what it misses."""

from pathlib import Path

import numpy as np
import pytest

from tasks.lexical.bm25 import best_positions
from tasks.retrieval.dense import DenseIndex, cluster_vectors
from tasks.stage.errors import DataError


def unit_vectors(count: int, *, centres: int = 40, seed: int = 0) -> np.ndarray:
    """Vectors around centres, as those of texts are."""
    numbers = np.random.default_rng(seed)
    middles = np.random.default_rng(9).standard_normal((centres, 32))
    vectors = middles[numbers.integers(centres, size=count)]
    vectors = vectors + 0.5 * numbers.standard_normal((count, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("columns", [1, 63, 64, 1000, 6400])
@pytest.mark.parametrize("count", [1, 7, 50, 9999])
@pytest.mark.parametrize("values", [2, 50, 10**6])
def test_the_best_are_those_of_a_stable_sort(columns: int, count: int, values: int) -> None:
    scores = np.random.default_rng(columns + count).integers(0, values, (3, columns))
    scores = scores.astype(np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert best_positions(scores, count).tolist() == expected.tolist()


def test_all_equal_scores_stand_in_order_of_position() -> None:
    assert best_positions(np.zeros((1, 5000), np.float32), 3).tolist() == [[0, 1, 2]]
    assert best_positions(np.empty((0, 9), np.float32), 3).shape == (0, 3)


def test_exact_search_among_some_finds_none_of_the_others() -> None:
    index = DenseIndex(unit_vectors(500), None)
    among = np.arange(3, 500, 7)
    (found,) = index.search(unit_vectors(1, seed=4), 10, among)
    scores = index.vectors @ unit_vectors(1, seed=4)[0]
    assert found.tolist() == sorted(among, key=lambda at: -scores[at])[:10]


def test_approximate_search_reaches_its_recall_and_measures_it_truly() -> None:
    vectors, questions = unit_vectors(4000), unit_vectors(50, seed=1)
    index, recall = cluster_vectors(vectors, questions, depth=10, least_recall=0.95)
    exact = DenseIndex(vectors, None).search(questions, 10)
    found = index.search(questions, 10)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
    assert recall.share == pytest.approx(share)
    assert recall.share >= 0.95
    assert 1 <= recall.probes < recall.clusters


def test_a_recall_of_one_is_reached_though_scores_are_equal() -> None:
    vectors = np.repeat(unit_vectors(20), 30, axis=0)
    _, recall = cluster_vectors(vectors, vectors[:5], depth=20, least_recall=1.0)
    assert recall.share == 1.0


def test_a_saved_approximate_index_finds_the_same(tmp_path: Path) -> None:
    vectors, questions = unit_vectors(2000), unit_vectors(9, seed=1)
    index, _ = cluster_vectors(vectors, questions, depth=10, least_recall=0.9)
    index.save(tmp_path)
    loaded = DenseIndex.load(tmp_path, approximate=True)
    for found, expected in zip(
        loaded.search(questions, 10), index.search(questions, 10), strict=True
    ):
        assert found.tolist() == expected.tolist()


def test_approximate_search_without_questions_to_measure_is_refused() -> None:
    with pytest.raises(DataError, match="no questions to measure"):
        cluster_vectors(unit_vectors(100), unit_vectors(0), depth=5, least_recall=0.9)
