"""Which scripts a text is written in: an honest stand-in for its language, by Unicode alone.

It tells Korean from Chinese from English without a model. It can't tell languages that share a
script, such as English and German.
"""

from collections import Counter
from functools import cache

import regex

# In this order; `other` is every letter of any other script.
SCRIPTS = ("latin", "hangul", "han", "kana", "other")

_KINDS = regex.compile(
    r"(?P<latin>\p{Latin})|(?P<hangul>\p{Hangul})|(?P<han>\p{Han})"
    r"|(?P<kana>[\p{Hiragana}\p{Katakana}\u30fc])|(?P<other>\p{L})"
)
_ASCII_LETTERS = regex.compile("[A-Za-z]+")


def count_scripts(text: str) -> tuple[int, ...]:
    """How many letters of a text belong to each of `SCRIPTS`, in their order."""
    if text.isascii():
        return (sum(map(len, _ASCII_LETTERS.findall(text))), 0, 0, 0, 0)
    counts = [0] * len(SCRIPTS)
    for character, count in Counter(text).items():
        place = _script(character)
        if place is not None:
            counts[place] += count
    return tuple(counts)


@cache
def _script(character: str) -> int | None:
    """The position of a character's script in `SCRIPTS`, None where it is no letter."""
    match = _KINDS.match(character)
    return SCRIPTS.index(match.lastgroup) if match and match.lastgroup else None
