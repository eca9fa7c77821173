"""Which records stay, in which split, and why the others go."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.curation.likeness import Told, compare, compare_plain
from tasks.curation.near_duplicates import Buckets
from tasks.curation.params import CurationParams
from tasks.curation.preparation import FEEDBACK, TEST, VALIDATION, Prepared
from tasks.curation.shingling import text_jaccard
from tasks.records.schema import CURATED_SPLITS, SPLITS

_HELD_OUT = {TEST: "like_test", FEEDBACK: "like_feedback", VALIDATION: "like_validation"}
_ASKED = {TEST: "asks_test_question", FEEDBACK: "asks_feedback_question"}
# Rows word by word that are kept at hand, some 15 kB each: enough for rows that stand together.
_TOLD_HELD = 256


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a record goes: the rule, the row that stays instead, how alike they are."""

    rule: str
    kept: int | None
    similarity: float | None


@dataclass(frozen=True, slots=True)
class SimilarPair:
    """Two rows and how alike they are; `repeats` is 0 where they ask or answer another thing."""

    first: int
    second: int
    similarity: float
    repeats: float


Removals = dict[int, Removal]


def select(prepared: Prepared, params: CurationParams) -> Removals:
    """Return why each row goes that goes. Of duplicates the one that came first stays.

    Which split a row is in depends on its group alone; what is like a held-out row leaves the
    splits below, and never moves. Feedback gives way to the rows of other sources, and none of
    these ever goes because of it.
    """
    removed: Removals = {row: Removal(rule, None, None) for row, rule in prepared.rules.items()}
    order = prepared.order
    removed |= _exact_duplicates(prepared, _left(order, removed))
    near, pairs = _near_duplicates(prepared, _left(order, removed), params)
    removed |= near
    for held_out, rule in _HELD_OUT.items():
        removed |= _leaks(prepared, pairs, removed, held_out, rule)
    for held_out, rule in _ASKED.items():
        left = _left(order, removed)
        removed |= _same_questions(prepared, left, held_out, rule, params.shingle_characters)
    return removed


def hold_out_feedback(prepared: Prepared, removed: Removals) -> tuple[Prepared, Removals]:
    """Return rows and removals in which feedback that knows a test row is held out: it is asked
    beside the test split, and never learned from.
    """
    knows_test = (_HELD_OUT[TEST], _ASKED[TEST])
    held = {
        row
        for row, removal in removed.items()
        if prepared.is_feedback[row] and removal.rule in knows_test
    }
    splits = prepared.splits.copy()
    splits[list(held)] = FEEDBACK
    left = {row: removal for row, removal in removed.items() if row not in held}
    return replace(prepared, splits=splits), left


def written_splits(prepared: Prepared, removed: Removals) -> tuple[str, ...]:
    """Return the splits that there are: that of feedback only where a row is in it."""
    held = (row not in removed for row in np.flatnonzero(prepared.splits == FEEDBACK).tolist())
    return CURATED_SPLITS if any(held) else SPLITS


def _left(order: NDArray[np.int64], removed: Removals) -> NDArray[np.int64]:
    gone = np.zeros(len(order), bool)
    gone[list(removed)] = True
    return order[~gone[order]]


def _exact_duplicates(prepared: Prepared, rows: NDArray[np.int64]) -> Removals:
    """Return the rows that an earlier one equals, word for word."""
    contents = prepared.contents[rows]
    # Stable, so that of equal rows the earliest comes first.
    ranks = np.lexsort((np.arange(len(rows)), contents[:, 1], contents[:, 0]))
    ordered = contents[ranks]
    begins = np.ones(len(rows), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = ranks[np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))]
    later = np.flatnonzero(~begins)
    return {
        int(rows[ranks[place]]): Removal("exact_duplicate", int(rows[firsts[place]]), 1.0)
        for place in later
    }


def _near_duplicates(
    prepared: Prepared, rows: NDArray[np.int64], params: CurationParams
) -> tuple[Removals, list[SimilarPair]]:
    """Return the rows that nearly repeat an earlier one, and the pairs that a held-out row is one
    of.

    Feedback that nearly repeats a row of another source stays: a correction may be one word.
    """
    if not len(rows):
        return {}, []
    buckets = Buckets(prepared.sketches.take(rows))
    splits = prepared.splits[rows]
    alike = _likeness(prepared, params)
    stays = np.ones(len(rows), bool)
    removed: Removals = {}
    pairs: list[SimilarPair] = []
    least = min(params.duplicate_similarity, params.leak_similarity)
    for rank in buckets.followers.tolist():
        others = buckets.earlier(rank)
        others = others[stays[others]]
        bounds = np.where(splits[others] == splits[rank], params.duplicate_similarity, least)
        row = int(rows[rank])
        likely = buckets.likely(rank, others, bounds)
        found = [alike(row, int(rows[other])) for other in likely]
        # Of equally near rows the earliest, which comes first.
        alike_rows = [pair for pair in found if _are_of_a_kind(pair, prepared)]
        best = max(alike_rows, key=lambda pair: pair.repeats, default=None)
        if best is not None and best.repeats >= params.duplicate_similarity:
            stays[rank] = False
            removed[row] = Removal("near_duplicate", best.second, round(best.repeats, 4))
        else:
            pairs += [pair for pair in found if _crosses(pair, prepared, params.leak_similarity)]
    return removed, pairs


def _likeness(prepared: Prepared, params: CurationParams) -> Callable[[int, int], SimilarPair]:
    """Return what measures pairs: the Jaccard index of what tells the rows from the others."""
    characters = params.shingle_characters
    least = min(params.duplicate_similarity, params.leak_similarity)

    def line(row: int) -> str:
        return prepared.own_texts.line(row).decode().removesuffix("\n")

    @lru_cache(maxsize=_TOLD_HELD)
    def told(row: int) -> Told:
        return prepared.measure.wording.told(prepared.rows.record(row))

    def measure(first: int, second: int) -> SimilarPair:
        if prepared.plain[first] and prepared.plain[second]:
            alike = compare_plain(line(first), line(second), characters)
            return SimilarPair(first, second, alike.whole, alike.repeats)
        similarity = text_jaccard(line(first), line(second), characters)
        if similarity < least:
            return SimilarPair(first, second, similarity, 0.0)
        alike = compare(told(first), told(second), characters)
        repeats = min(similarity, alike.repeats)
        return SimilarPair(first, second, min(similarity, alike.whole), repeats)

    return measure


def _are_of_a_kind(pair: SimilarPair, prepared: Prepared) -> bool:
    return bool(prepared.is_feedback[pair.first] == prepared.is_feedback[pair.second])


def _crosses(pair: SimilarPair, prepared: Prepared, similarity: float) -> bool:
    splits = prepared.splits
    return pair.similarity >= similarity and splits[pair.first] != splits[pair.second]


def _leaks(
    prepared: Prepared, pairs: list[SimilarPair], removed: Removals, held_out: int, rule: str
) -> Removals:
    """Return the rows of lower splits that nearly repeat a held-out one; the nearest is named."""
    found: Removals = {}
    for pair in sorted(pairs, key=lambda pair: -pair.similarity):
        low, high = sorted((pair.first, pair.second), key=lambda row: prepared.splits[row])
        is_leak = prepared.splits[high] == held_out and _may_leave(prepared, low, high)
        if is_leak and not {low, high} & removed.keys():
            found.setdefault(low, Removal(rule, high, round(pair.similarity, 4)))
    return found


def _may_leave(prepared: Prepared, row: int, held_out: int) -> bool:
    """Return whether a row may leave its split because of a held-out one."""
    return bool(prepared.is_feedback[row] or not prepared.is_feedback[held_out])


def _same_questions(
    prepared: Prepared, rows: NDArray[np.int64], held_out: int, rule: str, characters: int
) -> Removals:
    """Return the rows of lower splits that ask what a held-out row asks, whatever they answer."""
    splits = prepared.splits[rows]
    tests, others = rows[splits == held_out], rows[splits < TEST]
    if held_out == FEEDBACK:
        others = others[prepared.is_feedback[others]]
    asked = _by_key(prepared.forms, tests)
    told = _by_key(prepared.telling, tests)
    suspects = (np.isin(prepared.forms[others], prepared.forms[tests])
                | np.isin(prepared.telling[others], prepared.telling[tests]))  # fmt: skip
    found: Removals = {}
    for row in others[suspects].tolist():
        same = asked.get(int(prepared.forms[row]), [])
        near = told.get(int(prepared.telling[row]), []) if not same else []
        for test, similarity in _asked_alike(prepared, row, same, near, characters):
            found[row] = Removal(rule, test, round(similarity, 4))
            break
    return found


def _asked_alike(
    prepared: Prepared, row: int, same: list[int], near: list[int], characters: int
) -> Iterator[tuple[int, float]]:
    """Yield the held-out rows that ask the same, and the share of words that both hold."""
    for test in same:
        yield test, 1.0
    if near:
        record = prepared.rows.record(row)
        for test in near:
            similarity = prepared.measure.asked(record, prepared.rows.record(test), characters)
            if similarity is not None:
                yield test, similarity


def _by_key(keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> dict[int, list[int]]:
    """Return key -> rows, in order; 0 is no key."""
    found: dict[int, list[int]] = {}
    for row in rows.tolist():
        if keys[row]:
            found.setdefault(int(keys[row]), []).append(row)
    return found
