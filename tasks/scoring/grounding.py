"""Whether an answer rests on the passages it was shown, by its words alone.

What counts as supported:

- A term is a token as scores count them (`tasks.scoring.tokens`), so a number with its sign, an
  operator or an identifier; in scripts written without spaces it is a pair of neighbouring
  characters (a lone one counts as itself). It is supported as often as the passages hold it: the
  K-precision of Adlakha et al. 2023 (arXiv:2307.16877, section 3.3). Pairs, because single
  syllables of Korean or Chinese stand in almost any passage. A dotted name also supports its parts
  and its ends: `json.dumps` holds `dumps`.
- A number is a run of digits that continues no word, with its minus, percent or currency: where a
  passage says 50, 50% is unsupported. Thousands separators are left out. A name is a word with a
  capital that begins no sentence, or any where all words have one ("Paris."), a word with two
  capitals, or a code identifier.
  What has neither capitals nor dots, a Korean or Chinese name, cannot be told from other words
  here: groundedness counts it, `unsupported` does not.
- An answer that abstains, or is empty, claims nothing and has no groundedness.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import regex

from tasks.records.text import normalise
from tasks.scoring.answer_scores import Metrics, abstains, mean_of
from tasks.scoring.tokens import CHARACTER, LETTER, NUMBER, answer_words

# After a word a bracket is an index (`rows[1]`); "[1]", "[1, 2]" elsewhere cite.
_MARKER = regex.compile(rf"(?<!{LETTER})\[(\d{{1,3}}(?:\s*,\s*\d{{1,3}})*)\]")
_NUMBER = regex.compile(rf"-?{NUMBER}")
_UNIT = regex.compile(r"[%‰\p{Sc}]")
_CURRENCY = regex.compile(r"\p{Sc}")
_MARK = regex.compile(r"[^\p{L}\p{N}\s]")
_WORD = regex.compile(rf"{LETTER}+(?:\.{LETTER}+)*(?:\+\+|#(?!{LETTER}))?")
_CAPITAL = regex.compile(r"\p{Lu}")
_CAMEL = regex.compile(r"\p{Ll}\p{Lu}")
_SENTENCE_START = regex.compile(r"(?:^|[.!?:;。！？：；\n])[\s\"'“‘«「『(\[*`-]*$")


# Why a mean can be over no answer at all, though passages were shown.
_NO_MEAN = {
    "groundedness": "every answer is empty or abstains",
    "unsupported": "there are no answers",
    "attribution": "no answer that claims something had a gold passage",
    "citation": "no answer that had a gold passage cites any as [n]",
}
GROUNDING_METRICS = tuple(_NO_MEAN)


@dataclass(frozen=True)
class ShownPassages:
    """What an answer was asked with: the passages, best first, and which are of gold documents."""

    question: str
    passages: tuple[str, ...]
    is_gold: tuple[bool, ...]


@dataclass(frozen=True)
class Grounding:
    """How an answer rests on its passages; shares are in [0, 1].

    `groundedness`: the share of the answer's terms that the passages support; None without passages
    or a claim. `unsupported`: how many different numbers and names stand neither in the passages
    nor in the question. `attribution`: whether the passage that supports most of the answer is of a
    gold document (where several support as much, the share of them that are; 0 where none supports
    any). `citation`: the share of the passages cited as [n] that are of gold documents, None where
    nothing is cited. Attribution and citation are None where no gold passage was shown, which is
    the retriever's doing.
    """

    groundedness: float | None
    unsupported: int
    attribution: float | None
    citation: float | None


def ground(output: str, shown: ShownPassages, markers: Sequence[str]) -> Grounding:
    """Return how an answer rests on what it was shown; `markers` begin an answer that abstains."""
    answer = _MARKER.sub(" ", output)
    unsupported = len(unsupported_items(answer, [*shown.passages, shown.question]))
    citation = _citation(output, shown.is_gold)
    wanted = Counter(_terms(answer))
    if not wanted or not shown.passages or abstains(output, markers):
        return Grounding(None, unsupported, None, citation)
    held = [_held(passage) for passage in shown.passages]
    whole: Counter[str] = sum(held, Counter())
    attribution = _attribution([_share(wanted, one) for one in held], shown.is_gold)
    return Grounding(_share(wanted, whole), unsupported, attribution, citation)


def grounding_means(found: Sequence[Grounding], names: Sequence[str]) -> Metrics:
    """Return the mean of each named field over the answers that have it, and how many those are.

    `found` are the answers that were shown passages. A mean over none is null with a reason.
    """
    metrics: Metrics = {}
    for name in names:
        reason = _NO_MEAN[name] if found else "no passages were shown"
        metrics |= mean_of(name, [getattr(item, name) for item in found], reason)
    return metrics


def unsupported_items(text: str, sources: Sequence[str]) -> set[str]:
    """Return the numbers and names of a text that no source holds."""
    numbers = _numbers(text).difference(*(_numbers(source) for source in sources))
    folded = normalise("\n".join(sources))
    return numbers | {name for name in _names(text) if not _holds(folded, name)}


def _terms(text: str) -> list[str]:
    """Return tokens and pairs of characters, in order."""
    terms: list[str] = []
    for word in answer_words(text):
        letters = CHARACTER.findall(word)
        terms += [first + second for first, second in pairwise(letters)] or [word]
    return terms


@lru_cache(maxsize=512)
def _held(passage: str) -> Counter[str]:
    """Return all that a passage can support: its terms, its lone characters, its punctuation, and
    the parts and ends of its dotted names.
    """
    normal = normalise(passage)
    terms = _terms(passage)
    held = Counter(terms)
    held |= Counter([*CHARACTER.findall(normal), *_MARK.findall(normal)])
    held |= Counter(part for term in terms if "." in term for part in _dotted_parts(term))
    return held


def _dotted_parts(term: str) -> set[str]:
    """Return the parts and the ends of a dotted name; a number has none."""
    if _NUMBER.match(term):
        return set()
    parts = term.split(".")
    return {*parts, *(".".join(parts[at:]) for at in range(1, len(parts)))}


def _share(wanted: Counter[str], held: Counter[str]) -> float:
    return (wanted & held).total() / wanted.total()


def _attribution(shares: Sequence[float], is_gold: Sequence[bool]) -> float | None:
    if not any(is_gold):
        return None
    best = max(shares)
    if best == 0:
        return 0.0
    among = [gold for share, gold in zip(shares, is_gold, strict=True) if share == best]
    return sum(among) / len(among)


def _citation(output: str, is_gold: Sequence[bool]) -> float | None:
    cited = {int(place) for found in _MARKER.findall(output) for place in found.split(",")}
    if not cited or not any(is_gold):
        return None
    right = [0 < place <= len(is_gold) and is_gold[place - 1] for place in cited]
    return sum(right) / len(right)


def _numbers(text: str) -> set[str]:
    """Return the numbers of a text, each with its sign, and its percent or currency after it."""
    words = ("", *answer_words(text), "")
    found = set()
    for before, word, after in zip(words, words[1:], words[2:], strict=False):
        number = _NUMBER.match(word)
        if number:
            unit = _UNIT.match(after) or _CURRENCY.match(before)
            found.add(number.group() + (unit.group() if unit else ""))
    return found


def _names(text: str) -> set[str]:
    folded = unicodedata.normalize("NFKC", text)
    words = list(_WORD.finditer(folded))
    is_title = all(_CAPITAL.match(match.group()) for match in words)
    return {
        normalise(match.group())
        for match in words
        if _is_name(match.group(), folded[: match.start()], is_title=is_title)
    }


def _is_name(word: str, before: str, *, is_title: bool) -> bool:
    if word == "I" or not any(one.isalpha() for one in word):
        return False
    dotted = "." in word and all(len(piece) > 1 for piece in word.split("."))
    if dotted or "_" in word.strip("_") or _CAMEL.search(word) or len(_CAPITAL.findall(word)) > 1:
        return True
    return bool(_CAPITAL.search(word)) and (is_title or not _SENTENCE_START.search(before))


def _holds(folded: str, name: str) -> bool:
    """Return whether a normalised text holds a name as a word, or as the end of a dotted one."""
    pattern = rf"(?<!{LETTER}){regex.escape(name)}(?!{LETTER}|\+\+|#(?!{LETTER}))"
    return regex.search(pattern, folded) is not None
