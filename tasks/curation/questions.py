"""When two questions are one: the definition, and the keys by which such pairs are found.

Two questions are the same where they are equal once case, spacing and the punctuation around words
are set aside. They are nearly the same where they hold the same *telling* words and either share
four fifths of all words, or have the same answer. A word is telling where few questions of the data
set hold it. So "What does json.dump do?" and "What does json.dumps do?", made from one template,
differ: their telling words do. "Tell me, what does json.dump do?" asks the same. A question that
many rows ask word for word is no question but an instruction, and says nothing of two rows.

The words of scripts written without spaces, and of Korean, are their pairs of neighbouring letters.
"""

import hashlib
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

from tasks.curation.likeness import LEAST_PART, compare
from tasks.curation.shingling import jaccard
from tasks.curation.wording import Wording
from tasks.records.schema import Record
from tasks.records.text import UNSPACED, normalise

# Questions with the same telling words and so much of all words in common are nearly the same.
_WORD_SIMILARITY = 0.8
# A word is common where more than this share of the questions hold it, and more than so many.
_COMMON_SHARE = 0.005
_COMMON_LEAST = 4
# A question that more than this share of the rows ask ("Sum up the text above") is an instruction.
_ASKED_SHARE = 0.05
_SLOTS = 1 << 22
_SLOTS_HELD = 1 << 13  # of words that come again and again, some 200 bytes each

_EDGES = regex.compile(r"(?<![^\s])[\p{P}--_]+|[\p{P}--_]+(?![^\s])", regex.VERSION1)
_INNER_SPACE = regex.compile(rf"(?<=[{UNSPACED}]) | (?=[{UNSPACED}])")
_UNSPACED_RUN = regex.compile(rf"[{UNSPACED}\p{{M}}]+")


def question_text(record: Record) -> str:
    """Return all that the answer answers: every turn before it, the system's left out."""
    turns = record.messages[:-1]
    return "\n".join(turn.content for turn in turns if turn.role != "system")


def same_form(text: str) -> str:
    """Return the text without case, spacing and the punctuation around words; equal for same
    questions.
    """
    text = normalise(text)
    bare = " ".join(_EDGES.sub(" ", text).split()) or text
    return bare if bare.isascii() else str(_INNER_SPACE.sub("", bare))


def words(form: str) -> frozenset[str]:
    """Return the words of a text in `same_form`."""
    if form.isascii():  # no script without spaces
        return frozenset(form.split())
    found: set[str] = set()
    for word in form.split(" "):
        last = 0
        for run in _UNSPACED_RUN.finditer(word):
            found.add(word[last : run.start()])
            letters = run.group()
            found.update(letters[at : at + 2] for at in range(max(len(letters) - 1, 1)))
            last = run.end()
        found.add(word[last:])
    found.discard("")
    return frozenset(found)


def key(text: str) -> int:
    """Return a number of 64 bits for a text; 0 for an empty one."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) if text else 0


class WordCounts:
    """How many questions hold each word, in a table of fixed size."""

    def __init__(self) -> None:
        self._counts = np.zeros(_SLOTS, np.uint32)
        self._questions = 0

    def add(self, found: Iterable[str]) -> None:
        """Count one question's words."""
        self._questions += 1
        for slot in {_slot(word) for word in found}:
            self._counts[slot] += 1

    def common(self) -> "CommonWords":
        """Return the words that too many questions hold to tell one from another."""
        bound = max(self._questions * _COMMON_SHARE, _COMMON_LEAST)
        return CommonWords(frozenset(np.flatnonzero(self._counts > bound).tolist()))


@dataclass(frozen=True)
class CommonWords:
    """The words that tell nothing, by their slot."""

    slots: frozenset[int]

    def telling(self, found: Iterable[str]) -> frozenset[str]:
        """Return the other words."""
        slots = self.slots
        return frozenset([word for word in found if _slot(word) not in slots])


@lru_cache(maxsize=_SLOTS_HELD)
def _slot(word: str) -> int:
    return zlib.crc32(word.encode()) % _SLOTS


@dataclass(frozen=True)
class Measure:
    """By what the rows of one set are compared: what many of them share tells none from another.

    `instructions` are the keys of the questions that too many rows ask, word for word.
    """

    common: CommonWords
    instructions: frozenset[int]
    wording: Wording

    @classmethod
    def of(cls, records: Iterable[Record], characters: int) -> "Measure":
        """Return the measure of rows whose contents differ, of about so many characters together.

        Many copies of a row are not many rows: what they hold in common would be the row itself.
        """
        counts, wording, forms = WordCounts(), Wording(characters), array("Q")

        def noted() -> Iterator[Record]:
            for record in records:
                form = same_form(question_text(record))
                counts.add(words(form))
                forms.append(key(form))
                yield record

        wording.add(noted())
        asked, times = np.unique(np.array(forms, np.uint64), return_counts=True)
        many = times > max(len(forms) * _ASKED_SHARE, _COMMON_LEAST)
        return cls(counts.common(), frozenset(asked[many].tolist()), wording)

    def form_key(self, form: str) -> int:
        """Return a number for a question in `same_form`; 0 where it is an instruction."""
        number = key(form)
        return 0 if number in self.instructions else number

    def telling_key(self, form: str) -> int:
        """Return a number for the telling words of a question in `same_form`, 0 where none are."""
        return key("\n".join(sorted(self.common.telling(words(form)))))

    def asked(self, record: Record, other: Record, characters: int) -> float | None:
        """Return the share of words that two questions with the same telling words have in common.

        None where they are not nearly the same: a long instruction in common is not enough.
        """
        first, second = (same_form(question_text(item)) for item in (record, other))
        similarity = jaccard(words(first), words(second))
        if same_form(record.answer) == same_form(other.answer):
            return similarity
        if similarity < _WORD_SIMILARITY:
            return None
        told = self.wording.told(record), self.wording.told(other)
        return similarity if compare(*told, characters).question >= LEAST_PART else None
