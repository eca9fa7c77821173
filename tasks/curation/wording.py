"""What a set words alike, and what of a row tells it from the others.

The set says what stands at a place, where many of its rows come to that place and most of them go
on with the same word: so do a system prompt, an instruction, a template around its slots, whatever
the share of the rows that hold them. A place is the few characters before a word, or, where these
are of one row alone, those after it. Such words are *fixed*, and two rows are not alike for
sharing them. A slot's words are not: there the rows go on in different ways.

A word that stands where the set would have another one is *odd*: the slip of a pen, a "please" in
front, or something that matters. Which it is shows where two rows are compared (`likeness`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import regex
from numpy.typing import NDArray

from tasks.curation.likeness import FIXED, FREE, ODD, OwnText, Told
from tasks.curation.shingling import Hashes, mixed
from tasks.records.schema import Record
from tasks.records.text import UNSPACED, normalise

# Characters before or after a word that make its place: a word or two, or so many Han letters.
_WINDOW = 8
# So many tell two prompts about the same things apart.
_FAR = 32
# So many rows of different content must come to a place before it is the set's and not theirs.
_MANY = 5
# And more where words are few, since idioms are no templates: the run of such words, in characters,
# times the share of all rows that hold it. A run so long needs no more rows.
_LEAST_SHARED, _LONG_RUN = 0.25, 48
# So much of them, and the place's word is fixed; so much, and another one there is odd.
_MOST, _NEARLY_ALL = 0.5, 0.75
_EDGES = ".,!?;:…。、'\"“”‘’„«»"
_ROLES = {"system": "\0", "user": "\1", "assistant": "\2"}
_BREAK = 32  # spaces, and the characters that stand for roles
_LAST_LETTER = 0x40000  # letters end below it; the planes above hold no text
_PRIME = 0x9E3779B97F4A7C15
_SALT = 0xC2B2AE3D27D4EB4F
_LEAST_SLOTS, _MOST_SLOTS = 1 << 20, 1 << 24
_BATCH_ROWS, _BATCH_CHARACTERS = 250, 500_000
_CHARACTERS_A_WORD = 3  # at the least, on average; how full the tables may get


class Wording:
    """What the rows of a set word alike: rows by place, by place and word, and by the top word."""

    def __init__(self, characters: int) -> None:
        """Make an empty one, for texts of about so many characters together."""
        words = characters // _CHARACTERS_A_WORD
        slots = min(max(1 << words.bit_length(), _LEAST_SLOTS), _MOST_SLOTS)
        self._mask = np.uint64(slots - 1)
        # Places that share a slot are counted as one: the fuller the table, the more rows it takes.
        self._least = _MANY + 8 * words // slots
        self._rows = 0
        self._places = np.zeros(slots, np.uint32)
        self._pairs = np.zeros(slots, np.uint32)
        self._tops = np.zeros(slots, np.uint32)

    def add(self, records: Iterable[Record]) -> None:
        """Count each place of these rows once a row, and each word that stands there."""
        for batch in _batches(records):
            self._add(batch)

    def own_texts(self, records: Iterable[Record]) -> Iterator[OwnText]:
        """Return what tells each row from the others."""
        return (own for batch in _batches(records) for own in self._own_texts(batch))

    def _add(self, records: Sequence[Record]) -> None:
        self._rows += len(records)
        found = _Words.of(records)
        places = np.concatenate(found.places)
        pairs = _pairs(places, np.tile(found.words, len(found.places)))
        rows = mixed(np.tile(found.rows, len(found.places)).astype(np.uint64) + np.uint64(1))
        once = np.unique(places ^ rows, return_index=True)[1]
        np.add.at(self._places, places[once] & self._mask, 1)
        once = np.unique(pairs ^ rows, return_index=True)[1]
        slots = pairs[once] & self._mask
        np.add.at(self._pairs, slots, 1)
        np.maximum.at(self._tops, places[once] & self._mask, self._pairs[slots])

    def _own_texts(self, records: Sequence[Record]) -> list[OwnText]:
        found = _Words.of(records)
        free = self._kinds(found) == FREE
        steps = np.zeros(len(found.codes) + 1, np.int8)
        steps[found.starts[free]] += 1
        steps[found.ends[free]] -= 1
        kept = np.cumsum(steps[:-1], dtype=np.int8) > 0
        text = np.where(kept, found.codes, _BREAK).astype(np.uint32).tobytes().decode("utf-32-le")
        others = np.bincount(found.rows[~free], minlength=len(records))
        return [
            OwnText(_spaced(text[start:answer]), _spaced(text[answer:end]), not other)
            for (start, end), answer, other in zip(
                found.stretches, found.answers, others.tolist(), strict=True
            )
        ]

    def told(self, record: Record) -> Told:
        """Return one row, word by word."""
        found = _Words.of([record])
        kinds = tuple(self._kinds(found).tolist())
        ends = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
        words = tuple(found.text[start:end] for start, end in ends)
        return Told(words, kinds, int(np.searchsorted(found.starts, found.answers[0])))

    def _kinds(self, found: "_Words") -> NDArray[np.uint8]:
        said = [self._said(place, found.words) for place in found.places]
        # The first place that the set knows decides. Were a word fixed by the next one and that one
        # by it, both would be gone: so what comes before goes first.
        known = [place.known for place in said]
        fixed = np.select(known, [place.this for place in said], False)
        rows = np.select(known, [place.rows for place in said], 0)
        before, after = said[1:3]
        odd = (before.other | after.other) & ~(before.slot | after.slot) & ~fixed
        run = found.run_lengths(fixed | odd)
        sure = (run >= _LONG_RUN) | (run * rows >= _LEAST_SHARED * self._rows)
        return np.select([fixed & sure, odd & sure], [FIXED, ODD], FREE).astype(np.uint8)

    def _said(self, places: Hashes, words: Hashes) -> "_Said":
        slots = places & self._mask
        rows = self._places[slots]
        known = rows >= self._least
        this, other = np.zeros((2, len(places)), bool)
        # The tables are larger than the processor's cache: only what is known is looked up.
        at = np.flatnonzero(known)
        this[at] = self._pairs[_pairs(places[at], words[at]) & self._mask] > _MOST * rows[at]
        at = at[~this[at]]
        other[at] = self._tops[slots[at]] > _NEARLY_ALL * rows[at]
        return _Said(rows, known, this, other)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the rows a few at a time: as many as fit the processor's cache, at least one."""
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += sum(len(message.content) for message in record.messages)
        if len(batch) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class _Said:
    """How many rows come to a word's place, whether that is enough, and whether they have this word
    there or nearly all another one."""

    rows: NDArray[np.uint32]
    known: NDArray[np.bool_]
    this: NDArray[np.bool_]
    other: NDArray[np.bool_]

    @property
    def slot(self) -> NDArray[np.bool_]:
        """Return whether they go on in different ways there."""
        return self.known & ~self.this & ~self.other


@dataclass(frozen=True)
class _Words:
    """The words of some rows, as stretches of one text, with the hashes of where they stand.

    `stretches` are the rows', `answers` where each row's answer begins.
    """

    text: str
    codes: NDArray[np.uint32]
    stretches: list[tuple[int, int]]
    answers: list[int]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]
    words: Hashes
    places: list[Hashes]

    @classmethod
    def of(cls, records: Sequence[Record]) -> "_Words":
        parts: list[str] = []
        stretches, answers, turns, at = [], [], [], 0
        for record in records:
            first = at
            for message in record.messages:
                begin = _ROLES[message.role] * _WINDOW
                parts += (begin, bare(message.content))
                answer = at + _WINDOW
                turns.append((answer, ord(begin[0])))
                at = answer + len(parts[-1])
            parts.append(_ROLES["user"] * _WINDOW)
            at += _WINDOW
            stretches.append((first, at))
            answers.append(answer)
        text = "".join(parts)
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        starts, ends = _bounds(codes)
        hashes = _Stretches(codes)
        return cls(
            text, codes, stretches, answers, starts, ends,
            rows=np.searchsorted([first for first, _ in stretches], starts, "right") - 1,
            words=hashes.of(starts, ends),
            places=_places(hashes, starts, ends, len(codes), turns),
        )  # fmt: skip

    def run_lengths(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return for each word how many characters its run of chosen words of one row has."""
        apart = np.ones(len(chosen), bool)
        apart[1:] = ~chosen[1:] | ~chosen[:-1] | (self.rows[1:] != self.rows[:-1])
        firsts = np.flatnonzero(apart)
        lasts = np.append(firsts[1:], len(chosen)) - 1
        lengths = self.ends[lasts] - self.starts[firsts]
        return np.repeat(lengths, lasts - firsts + 1)


def _pairs(places: Hashes, words: Hashes) -> Hashes:
    """Return each place with the word that stands there."""
    return mixed(places * np.uint64(_PRIME) + words)


def _places(
    hashes: "_Stretches",
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    length: int,
    turns: Sequence[tuple[int, int]],
) -> list[Hashes]:
    """Return for each word its places: what comes before it, up to a few words and nearer, what
    after it, and both without the word next to it, a slot or a slip. The text has a length.

    `turns` are where they begin, and whose they are. Places of different roles differ: a long
    prompt does not make its idioms those of the users.
    """
    begins, roles = np.array(turns, np.int64).reshape(-1, 2).T
    turn = np.searchsorted(begins, starts, "right") - 1
    # A text's first word has none before it, and its last none after.
    earlier, later = np.append(starts[:1], starts[:-1]), np.append(ends[1:], ends[-1:])
    stretches = (
        (np.maximum(starts - _FAR, begins[turn] - _WINDOW), starts),
        (starts - _WINDOW, starts),
        (ends, ends + _WINDOW),
        (np.maximum(earlier - _WINDOW, 0), earlier),
        (later, np.minimum(later + _WINDOW, length)),
    )
    found = []
    own = np.uint64(len(stretches)) * roles[turn].astype(np.uint64)
    for salt, (begin, end) in enumerate(stretches):
        salts = np.uint64(_SALT) * (own + np.uint64(salt + 1))
        found.append(mixed(hashes.of(begin, end) ^ salts))
    return found


class _Stretches:
    """The hashes of any stretches of a text."""

    def __init__(self, codes: NDArray[np.uint32]) -> None:
        self._powers, self._inverses = _powers(1 << len(codes).bit_length())
        sums = np.cumsum((codes + np.uint64(1)) * self._powers[: len(codes)])
        self._sums = np.concatenate([np.zeros(1, np.uint64), sums])

    def of(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
        """Return the hash of each stretch, which depends on its text alone."""
        return mixed((self._sums[ends] - self._sums[starts]) * self._inverses[starts])


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Return the powers of a number, and their inverses, modulo 2^64."""
    inverse = pow(_PRIME, -1, 1 << 64)
    return tuple(
        np.cumprod(np.concatenate([[np.uint64(1)], np.full(count, base, np.uint64)]))
        for base in (np.uint64(_PRIME), np.uint64(inverse))
    )  # type: ignore[return-value]


def bare(text: str) -> str:
    """Return the text without case, runs of spaces, and punctuation around its words."""
    folded = normalise(text)
    words = folded.strip(_EDGES + " ").split()
    # Most words are letters alone, which is seen in a third of the time.
    bared = [word if word.isalnum() else word.strip(_EDGES) or word for word in words]
    return " ".join(bared) or folded


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _bounds(codes: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where words begin and end: between spaces; of scripts without spaces each letter is
    one.
    """
    inside = codes > _BREAK
    single = _singles()[codes]
    apart = single | np.roll(single, 1)
    starts = inside & (~np.roll(inside, 1) | apart)
    apart = single | np.roll(single, -1)
    ends = inside & (~np.roll(inside, -1) | apart)
    return np.flatnonzero(starts), np.flatnonzero(ends) + 1


@cache
def _singles() -> NDArray[np.bool_]:
    """Return for each code point whether it is a letter of a script without spaces."""
    found = np.zeros(0x110000, bool)
    every = "".join(chr(code) for code in range(_LAST_LETTER) if not 0xD800 <= code < 0xE000)
    for run in regex.finditer(rf"[[{UNSPACED}]--\p{{Hangul}}]+", every, regex.VERSION1):
        found[ord(run.group()[0]) : ord(run.group()[-1]) + 1] = True
    return found
