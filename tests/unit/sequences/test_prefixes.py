"""Prompts are visited so that what they share is right there when it is needed."""

import random
from itertools import pairwise

import pytest

from tasks.sequences.packing import depth_first, shared_length


def tree(seed: int) -> list[tuple[int, ...]]:
    """Distinct rows that fork at many depths; some continue others."""
    draw = random.Random(seed)
    rows = {(1,)}
    while len(rows) < 40:
        stem = draw.choice(sorted(rows))
        grown = stem[: draw.randint(0, len(stem))]
        rows.add(grown + tuple(draw.randrange(4) for _ in range(draw.randint(1, 9))))
    return sorted(rows, key=lambda _: draw.random())


@pytest.mark.parametrize("seed", range(8))
def test_what_a_row_shares_with_any_before_it_shares_with_the_one_before(seed: int) -> None:
    rows = tree(seed)
    order = depth_first(rows)
    assert sorted(order) == list(range(len(rows)))
    visited = [rows[place] for place in order]
    for place in range(1, len(visited)):
        shared = [shared_length(visited[place], earlier) for earlier in visited[:place]]
        assert shared[-1] == max(shared)


@pytest.mark.parametrize("seed", range(8))
def test_each_token_of_the_tree_is_new_once(seed: int) -> None:
    rows = tree(seed)
    visited = [rows[place] for place in depth_first(rows)]
    new = len(visited[0]) + sum(
        len(after) - shared_length(before, after) for before, after in pairwise(visited)
    )
    assert new == len({row[:end] for row in rows for end in range(1, len(row) + 1)})


def test_of_rows_that_share_nothing_the_longest_comes_first() -> None:
    assert depth_first([(1,), (2, 2, 2), (3, 3)]) == [1, 2, 0]


def test_rows_that_continue_one_another_a_thousand_times_are_no_trouble() -> None:
    rows = [tuple(range(length)) for length in range(1, 1500)]
    assert depth_first(rows[::-1]) == list(range(len(rows)))[::-1]


def test_nothing_has_no_order() -> None:
    assert depth_first([]) == []
    assert shared_length((), (1,)) == 0
