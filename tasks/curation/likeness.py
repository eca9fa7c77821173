"""How alike two rows are in what tells them from the others of their set.

Fixed words that both hold don't count, as long as they are no more than what the set words alike
(`wording`). Whatever the rows differ in does, but for slips: a misspelt word, or one put in, at a
place where the set is of one mind.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.curation.shingling import text_jaccard

# Words at no place of the set's, those that it has there, and others where it has one.
FREE, FIXED, ODD = range(3)
# Question and answer must each be so alike in rows that are duplicates: a long answer in common
# makes no duplicates of two questions, nor the other way round.
LEAST_PART = 0.5


@dataclass(frozen=True)
class Told:
    """A row's words, which of them are fixed or odd, and where the answer begins."""

    words: tuple[str, ...]
    kinds: tuple[int, ...]
    answer: int

    @property
    def parts(self) -> tuple["Told", "Told"]:
        """Return question and answer, each by itself."""
        at = self.answer
        first = Told(self.words[:at], self.kinds[:at], at)
        return first, Told(self.words[at:], self.kinds[at:], 0)


@dataclass(frozen=True)
class Likeness:
    """How alike two rows are in what tells them from the others: as a whole, and part by part."""

    whole: float
    question: float
    answer: float

    @property
    def repeats(self) -> float:
        """How nearly the one repeats the other; 0 where question or answer is another one."""
        return self.whole if min(self.question, self.answer) >= LEAST_PART else 0.0


@dataclass(frozen=True)
class OwnText:
    """What tells a row from the others: its words but the fixed and odd ones; `plain`: it has none
    of these."""

    question: str
    answer: str
    plain: bool

    @property
    def line(self) -> str:
        """Return question and answer in one line, a tab between them; its likeness is theirs."""
        return f"{self.question}\t{self.answer}"


def compare_plain(first: str, second: str, characters: int) -> Likeness:
    """Return the likeness of the lines of two plain texts, whose words all count."""
    parts = zip(first.split("\t"), second.split("\t"), strict=True)
    question, answer = (text_jaccard(*texts, characters) for texts in parts)
    return Likeness(text_jaccard(first, second, characters), question, answer)


def compare(first: Told, second: Told, characters: int) -> Likeness:
    """Return the likeness of two rows: fixed words that both hold don't count, nor do forgiven
    ones.
    """
    (question, other_question), (answer, other_answer) = (
        _own(*pair) for pair in zip(first.parts, second.parts, strict=True)
    )
    whole, other_whole = f"{question}\t{answer}", f"{other_question}\t{other_answer}"
    return Likeness(
        text_jaccard(whole, other_whole, characters),
        text_jaccard(question, other_question, characters),
        text_jaccard(answer, other_answer, characters),
    )


def _own(first: Told, second: Told) -> tuple[str, str]:
    """Return what of each text counts beside the other."""
    return _weighty(first, second), _weighty(second, first)


def _weighty(one: Told, other: Told) -> str:
    held, runs = frozenset(other.words), _neighbours(other.words)
    kept = []
    for place, (word, kind) in enumerate(zip(one.words, one.kinds, strict=True)):
        if word in held:
            weightless = kind == FIXED
        else:
            weightless = kind != FREE and _forgiven(one.words, place, held, runs)
        if not weightless:
            kept.append(word)
    return " ".join(kept)


def _neighbours(words: Sequence[str]) -> frozenset[tuple[str, str]]:
    return frozenset(zip(("", *words), (*words, ""), strict=True))


def _forgiven(
    words: Sequence[str], place: int, held: Iterable[str], runs: frozenset[tuple[str, str]]
) -> bool:
    """Return whether a word that another text lacks is a slip: put in there, or misspelt.

    `held` are the words of the other one, `runs` the neighbours in it. A number is never a slip.
    """
    word = words[place]
    if any(character.isdigit() for character in word):
        return False
    around = (words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else "")
    return around in runs or any(misspelt(word, other) for other in held)


def misspelt(word: str, other: str) -> bool:
    """Return whether one slip makes one word of the other: a letter more, less, changed, or two
    swapped.

    Words of one or two letters are too near to each other to tell.
    """
    if min(len(word), len(other)) < 3 or abs(len(word) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(word), len(other)) and word[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(word), len(other)) - start and word[-1 - end] == other[-1 - end]:
        end += 1
    left, right = word[start : len(word) - end], other[start : len(other) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])
