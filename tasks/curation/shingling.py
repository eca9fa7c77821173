"""Texts as sets of character runs (shingles), as text and as hashes many texts at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINALIZER = np.uint64(0xFF51AFD7ED558CCD)


def folded(text: str) -> str:
    """Return the text without what never makes two texts different: case, and how spaces run."""
    return " ".join(text.casefold().split())


def shingles(text: str, characters: int) -> frozenset[str]:
    """Return the set of all runs of so many characters in a folded text.

    A text shorter than that is one shingle.
    """
    text = folded(text)
    return frozenset(_runs(text, characters) or {text})


def jaccard(first: frozenset[Any], second: frozenset[Any]) -> float:
    """Return shared elements over all elements, in [0, 1]; 1 for two empty sets."""
    shared = len(first & second)
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def text_jaccard(first: str, second: str, characters: int) -> float:
    """Return the Jaccard index of the shingles of two texts, in [0, 1].

    What both have at their ends is made into shingles once: of near copies that is nearly all.
    """
    one, other = folded(first), folded(second)
    if one == other:
        return 1.0
    least = min(len(one), len(other))
    if least < characters:
        return jaccard(shingles(one, characters), shingles(other, characters))
    start = _shared_start(one, other)
    end = min(_shared_start(one[::-1], other[::-1]), least - start)
    shared = _runs(one[:start], characters) | _runs(one[len(one) - end :], characters)
    # Runs that reach into neither end as a whole.
    begin, beyond = max(start - characters + 1, 0), characters - 1 - end
    mine = _runs(one[begin : len(one) + beyond], characters) - shared
    theirs = _runs(other[begin : len(other) + beyond], characters) - shared
    return (len(shared) + len(mine & theirs)) / (len(shared) + len(mine | theirs))


def _runs(text: str, characters: int) -> set[str]:
    """Return the runs of so many characters in a text; a shorter one has none."""
    # A comprehension, and not a generator: this is what measuring a pair costs.
    return {text[start : start + characters] for start in range(len(text) - characters + 1)}


def _shared_start(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginnings."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if other.startswith(one[least:middle], least):
            least = middle
        else:
            most = middle - 1
    return least


def shingle_hashes(texts: Sequence[str], characters: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of all shingles of many texts, one text after the other, and where each
    begins.

    Hashes come as often as their shingles do; `hashes[starts[i]:starts[i + 1]]` are those of text
    `i`. They depend on the text and `characters` alone, and differ where shingles do, but for one
    pair in 2^64.
    """
    padded = [folded(text).ljust(characters, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32)
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    runs = np.zeros(max(len(codes) - characters + 1, 0), np.uint64)
    for place in range(characters):
        runs *= _MULTIPLIER
        runs += codes[place : place + len(runs)]
    counts = lengths - characters + 1
    starts = np.concatenate([[0], np.cumsum(counts)])
    # A run that reaches into the next text is none: each text before it has so many of those.
    places = np.arange(starts[-1]) + np.repeat(np.arange(len(padded)) * (characters - 1), counts)
    return mixed(runs[places]), starts


def distinct_hashes(texts: Sequence[str], characters: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of the shingles of texts, each once a text and sorted, one text after the
    other, and where each text's end. There may be 65,536 texts at most.
    """
    hashes, starts = shingle_hashes(texts, characters)
    rows = np.repeat(np.arange(len(texts), dtype=np.uint16), np.diff(starts))
    order = np.argsort(hashes)
    order = order[np.argsort(rows[order], kind="stable")]
    hashes = hashes[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
    return hashes[new], np.cumsum(np.bincount(rows[new], minlength=len(texts)))


def mixed(values: Hashes) -> Hashes:
    """Return values whose every bit depends on all bits of the given ones; the given are
    overwritten.
    """
    values ^= values >> np.uint64(33)
    values *= _FINALIZER
    values ^= values >> np.uint64(33)
    return values
