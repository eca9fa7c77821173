"""Near duplicates among rows: ours and datasketch's MinHash LSH, at its defaults and at its best.

Rows are made: English-like and Korean ones, a tenth of them planted near duplicates whose likeness
to an earlier row is measured exactly. Ours reads texts and gives verified pairs; datasketch reads
the same texts, makes a MinHash of each and asks its index before it inserts, as its guide says.
At its best it hashes in bulk, and with xxhash instead of SHA-1.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import datasketch
import xxhash

from tasks.curation.near_duplicates import Buckets, sketch_all
from tasks.curation.shingling import shingles, text_jaccard
from tests.benchmarks._measurement import measure, print_result
from tests.benchmarks._memory import peak_megabytes

SIMILARITY = 0.9
CHARACTERS = 5
PERMUTATIONS = 120
PEER_PERMUTATIONS = 128
SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4, 28)]


@dataclass(frozen=True)
class Rows:
    """Texts, and the planted copies among them: place of the copy -> place of its original."""

    texts: list[str]
    planted: dict[int, int]


def make_rows(count: int, *, korean: bool, seed: int) -> Rows:
    """Distinct texts of about 150 (Korean: 60) characters; each tenth nearly repeats another."""
    numbers = random.Random(seed)
    letters = SYLLABLES if korean else "abcdefghijklmnopqrstuvwxyz"
    lengths = (1, 4) if korean else (2, 9)
    vocabulary = [
        "".join(numbers.choices(letters, k=numbers.randint(*lengths))) for _ in range(20_000)
    ]
    texts: list[str] = []
    planted: dict[int, int] = {}
    originals = [number for number in range(count) if number % 10]
    for number in range(count):
        if number % 10 or not texts:
            texts.append(" ".join(numbers.choices(vocabulary, k=numbers.randint(20, 32))))
            continue
        original = originals[numbers.randrange(number - number // 10 - 1)]
        texts.append(_nearly(texts[original], vocabulary, numbers))
        planted[number] = original
    return Rows(texts, planted)


def _nearly(text: str, vocabulary: Sequence[str], numbers: random.Random) -> str:
    """The text with a small change: a word more, a word less at an end, case, spacing or a sign."""
    words = text.split(" ")
    change = numbers.randrange(4)
    if change == 0:
        return " ".join([*words, numbers.choice(vocabulary)[:3]])
    if change == 1:
        return " ".join(words[1:] if len(words[0]) <= 3 else [words[0][1:], *words[1:]])
    if change == 2:
        return "  ".join(words).upper() + "!"
    middle = numbers.randrange(1, len(text) - 1)
    return text[:middle] + numbers.choice(vocabulary)[0] + text[middle:]


def ours(texts: Sequence[str]) -> dict[int, int]:
    """Row -> the earlier row that it nearly repeats, each pair measured."""
    sketches = sketch_all(
        texts, characters=CHARACTERS, permutations=PERMUTATIONS, similarity=0.8, seed=20
    )
    buckets = Buckets(sketches)
    found: dict[int, int] = {}
    for row in buckets.followers.tolist():
        likely = buckets.likely(row, buckets.earlier(row), SIMILARITY).tolist()
        alike = {other: _likeness(texts, row, other) for other in likely}
        best = max(alike, key=lambda other: alike[other], default=None)
        if best is not None and alike[best] >= SIMILARITY:
            found[row] = best
    return found


def theirs(texts: Sequence[str], *, best: bool) -> dict[int, int]:
    """Row -> an earlier row that datasketch's index proposes for it."""
    index = datasketch.MinHashLSH(threshold=SIMILARITY, num_perm=PEER_PERMUTATIONS)
    found: dict[int, int] = {}
    for row, minhash in enumerate(_minhashes(texts, best=best)):
        candidates = index.query(minhash)
        if candidates:
            found[row] = min(candidates)
        index.insert(row, minhash)
    return found


def _minhashes(texts: Sequence[str], *, best: bool):  # type: ignore[no-untyped-def]
    sets = ([item.encode() for item in shingles(text, CHARACTERS)] for text in texts)
    if best:
        yield from datasketch.MinHash.generator(
            sets, num_perm=PEER_PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest
        )
        return
    for item in sets:
        minhash = datasketch.MinHash(num_perm=PEER_PERMUTATIONS)
        for element in item:
            minhash.update(element)
        yield minhash


def quality(rows: Rows, found: dict[int, int]) -> dict[str, float]:
    """Recall of the planted copies that reach the threshold, and precision of what was found."""
    due = {
        copy
        for copy, original in rows.planted.items()
        if _likeness(rows.texts, copy, original) >= SIMILARITY
    }
    true = sum(_likeness(rows.texts, row, other) >= SIMILARITY for row, other in found.items())
    return {
        "planted": len(due),
        "recall": round(len(due & found.keys()) / len(due), 5),
        "precision": round(true / max(len(found), 1), 5),
    }


def _likeness(texts: Sequence[str], first: int, second: int) -> float:
    return text_jaccard(texts[first], texts[second], CHARACTERS)


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4,000 rows, 2 repeats")
    parser.add_argument("--rows", type=int, default=None, help="100,000, or 4,000 with --quick")
    parser.add_argument("--repeats", type=int, default=None, help="5, or 2 with --quick")
    options = parser.parse_args()
    count = options.rows or (4_000 if options.quick else 100_000)
    repeats = options.repeats or (2 if options.quick else 5)
    rows = make_rows(count, korean=False, seed=1)
    korean = make_rows(count, korean=True, seed=2)
    peers: dict[str, Callable[[], object]] = {
        "datasketch": lambda: theirs(rows.texts, best=False),
        "datasketch_best": lambda: theirs(rows.texts, best=True),
    }
    seconds = measure(lambda: ours(rows.texts), peers, repeats=repeats)
    figures = {
        "rows": count,
        "repeats": repeats,
        "ours": quality(rows, ours(rows.texts)),
        "ours_korean": quality(korean, ours(korean.texts)),
        "datasketch": quality(rows, theirs(rows.texts, best=True)),
        "peak_megabytes": {
            "ours": peak_megabytes(ours, rows.texts),
            "datasketch": peak_megabytes(partial(theirs, best=True), rows.texts),
        },
    }
    print_result("deduplication", seconds, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
