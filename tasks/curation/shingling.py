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
    last = max(len(text) - characters, 0)
    # A comprehension, and not a generator: this is what measuring a pair costs.
    return frozenset({text[start : start + characters] for start in range(last + 1)})


def jaccard(first: frozenset[Any], second: frozenset[Any]) -> float:
    """Return shared elements over all elements, in [0, 1]; 1 for two empty sets."""
    shared = len(first & second)
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


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
