"""The tokens that scores compare: what carries meaning, in any script, and nothing else.

Kept: words, numbers with their sign, identifiers as wholes (`json.dumps`, `__init__`, `C++`,
`*args`, `--verbose`), and each operator, currency, percent and other symbol. Left out: full stops,
commas, colons, quotes, brackets, dashes between words, and Markdown's emphasis, headings and list
marks. docs/reference/scoring.md tells the rules with examples, and how SQuAD's differ.
"""

import unicodedata
from functools import lru_cache

import regex

from tasks.records.text import UNSPACED, normalise

# A character of a word in a script with spaces: letters, digits and underscores.
LETTER = rf"[^\W{UNSPACED}]"
CHARACTER = regex.compile(rf"[{UNSPACED}]\p{{M}}*")
# A number as it stands in a token: 3.14, 12,5, 10:30, 1e-5. "1,2,3" are three, "(1,2)" two.
_PAIR = r"(?<=[(\[{]\p{Nd}+,\p{Nd}+)[)\]}]"
NUMBER = (
    rf"\p{{Nd}}+(?:[.:]\p{{Nd}}+)*(?:(?<!,\p{{Nd}}*),\p{{Nd}}+(?!,?\p{{Nd}}|{_PAIR}))?"
    rf"(?:e[-+]\p{{Nd}}+(?!{LETTER}))?"
)

_FIRST = rf"[^\W\p{{Nd}}{UNSPACED}]"
_NAME = rf"{_FIRST}{LETTER}*(?:\.{LETTER}+)*"
_MEASURE = rf"{NUMBER}(?:\.?{LETTER}+)*"  # 5, 1.5kg, 3rd, 3.x
# Nothing follows that could be an operand.
_END = rf"(?![^\s{UNSPACED},.;:!?)\]}}/'\"])"
_SHORT = rf"(?<=(?<!{LETTER}|\.)[^\W{UNSPACED}]{{1,2}}--?)"
_SUFFIX = "|".join(
    (
        rf"\+\+(?!{_FIRST}|=)",  # C++, C++11
        rf"#(?!{LETTER})",  # C#
        rf"\+{_END}",  # A+
        rf"--?{_SHORT}{_END}",  # O-, Cl-, x--
    )
)
# A sign touches what comes after it, and nothing before it but where a script has no spaces.
# After "9時" a hyphen makes a range.
_UNTOUCHED = rf"(?<!{LETTER}[`'\"]?|[)\]}}]|\p{{Nd}}[{UNSPACED}]{{1,2}})"
_PREFIX = "|".join(
    (
        rf"-{_MEASURE}",
        rf"--?{_NAME}(?:-{LETTER}+)*",  # -v, --no-cache
        rf"(?:\*\*?|@){_NAME}",
        rf"\.(?<![.{UNSPACED}]\.){_NAME}",  # .NET
    )
)
# A hyphen subtracts, or makes a range, before a number and between numbers, brackets and single
# letters. Elsewhere it joins or separates words.
_LEFT = rf"(?:\p{{Nd}}[{UNSPACED}]{{0,2}}|(?<!{LETTER}|['.]){_FIRST}|[)\]])"
_RIGHT = rf"(?:\p{{Nd}}|{_FIRST}(?!{LETTER})|[(\[])"
_OPERATOR = "|".join(
    (
        r"(?:<<|>>|\*\*|//|[-+*/%@&|^~!:<>=])=+",
        r"[-=]>|<-(?= )|&&|\|\||<<|>>|\*\*|//|::|\+\+",
        rf"!(?<![\w!?.)]!)(?=\(|{LETTER})",
        r":(?=\])|:(?<=\[:)",  # x[1:], x[:1]
        r"-(?<=\S -)(?= \p{Nd})",  # count - 1
        rf"-(?<={_LEFT} ?-)(?= ?{_RIGHT})",  # n-1, 1990-2000
        rf"{_UNTOUCHED}-(?=\p{{Sc}}\p{{Nd}})",  # -$5
    )
)
_WORDS = regex.compile(
    "|".join(
        (
            rf"{_NAME}(?:{_SUFFIX})?",
            rf"[{UNSPACED}][{UNSPACED}\p{{M}}]*",
            _MEASURE,
            rf"{_UNTOUCHED}(?:{_PREFIX})",
            _OPERATOR,
            r"(?![©®])[\p{Sm}\p{Sc}\p{So}^%‰‱&*@#/\\§′″]",
        )
    )
)
_PIECES = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[^{UNSPACED}]+")

_LINE_MARKS = regex.compile(r"^[ \t]*(?:[-*•]|#{1,6})[ \t]+(?=\S)", regex.MULTILINE)
_EMPHASIS = regex.compile(
    rf"(?<!{LETTER}|[*\\])(\*{{1,3}})(?=[^\s*])([^*\n]*[^\s*])\1(?!{LETTER}|\*)"
)
_ANGLES = regex.compile(rf"(?<!{LETTER}|<)<(?=\p{{L}})([^<>\n]*\S)>(?!{LETTER}|[=>])")
_THOUSANDS = regex.compile(r"(?<![\w.,])\p{Nd}{1,3}(?:,\p{Nd}{3})+(?!,?\p{Nd})")
_DOT_FIRST = regex.compile(r"\.(?=\p{Nd})(?<![\w)\].]\.)")
_EN_DASH = regex.compile(r"–(?=\.?\p{Nd})")
_OTHER_DIGIT = regex.compile(r"[^\P{Nd}0-9]")
# One form of what is written in several ways.
_ALIKE = {
    ord(one): form
    for one, form in {
        "−": "-", "‐": "-", "‒": "-", "≥": ">=", "≤": "<=", "≠": "!=", "→": "->", "⁄": "/",
        "∕": "/", "٪": "%", "٫": ".", "٬": ",", "’": "'", "\ufe0e": "", "\ufe0f": "",
    }.items()
}  # fmt: skip


def token_text(text: str) -> str:
    """Return a text normalised, without Markdown's marks, one form of each sign and number."""
    text = _LINE_MARKS.sub("", text)
    if "*" in text:
        text = _EMPHASIS.sub(r"\2", text)
    if "<" in text:
        text = _ANGLES.sub(r" \1 ", text)
    text = normalise(text)
    if not text.isascii():
        text = _OTHER_DIGIT.sub(_ascii_digit, text.translate(_ALIKE))
        text = _EN_DASH.sub("-", text)
    if "," in text:
        text = _THOUSANDS.sub(lambda found: found.group().replace(",", ""), text)
    whole: str = _DOT_FIRST.sub("0.", text)
    return whole


@lru_cache(maxsize=1024)
def answer_words(text: str) -> tuple[str, ...]:
    """Return the tokens that exact match compares; what is written without spaces stays whole.

    A character that was lost in decoding (U+FFFD) is a symbol, so a token of its own. A text
    without a token (brackets, say) has its characters.
    """
    words = tuple(_WORDS.findall(token_text(text)))
    return words or tuple((token_text(text) or normalise(text)).replace(" ", ""))


@lru_cache(maxsize=1024)
def answer_tokens(text: str) -> tuple[str, ...]:
    """Return the tokens that overlap scores count: the words, but Han, kana, Thai and Hangul by
    character.
    """
    words = answer_words(text)
    if text.isascii():
        return words
    return tuple(piece for word in words for piece in _PIECES.findall(word))


def _ascii_digit(found: "regex.Match[str]") -> str:
    return str(unicodedata.digit(found[0]))
