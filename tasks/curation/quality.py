"""Which rows are worth learning from: named rules, each with its thresholds in params."""

from collections.abc import Callable
from functools import cache

import regex

from tasks.curation.params import QualityParams
from tasks.curation.questions import question_text
from tasks.curation.truncation import is_cut
from tasks.records.schema import Record
from tasks.records.text import normalise, text_tokens

_LETTER = regex.compile(r"\p{L}")
# Letters that say as much as two others where the length of a text is asked for.
_WIDE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")


def broken_rule(record: Record, params: QualityParams) -> str | None:
    """Return the name of the first rule that a record breaks, None where it breaks none."""
    for name, breaks in _RULES.items():
        if getattr(params, name).enabled and breaks(record, params):
            return name
    return None


def _too_short(record: Record, params: QualityParams) -> bool:
    rule = params.too_short
    return (
        len(record.question.strip()) < rule.question_characters
        or len(record.answer.strip()) < rule.answer_characters
    )


def _too_long(record: Record, params: QualityParams) -> bool:
    rule = params.too_long
    return (
        len(record.question.strip()) > rule.question_characters
        or len(record.answer.strip()) > rule.answer_characters
    )


def _repetitive(record: Record, params: QualityParams) -> bool:
    """Return whether the question or the answer says the same again and again."""
    rule = params.repetitive
    for text in (record.question, record.answer):
        if len(text) < rule.words:
            continue
        words = text_tokens(text)
        if len(words) < rule.words:
            continue
        triples = list(zip(words, words[1:], words[2:], strict=False))
        if len(set(triples)) < rule.distinct_share * len(triples):
            return True
    return False


def _boilerplate(record: Record, params: QualityParams) -> bool:
    """Return whether the answer holds a phrase that says nothing about its question."""
    answer = normalise(record.answer)
    return any(_normal_phrase(phrase) in answer for phrase in params.boilerplate.phrases)


_normal_phrase = cache(normalise)


def _wrong_language(record: Record, params: QualityParams) -> bool:
    """Return whether too few of the letters are of the scripts asked for; a text without any
    passes.
    """
    rule = params.wrong_language
    text = f"{question_text(record)}\n{record.answer}"
    letters = len(_LETTER.findall(text))
    wanted = regex.compile("[" + "".join(rf"\p{{Script={name}}}" for name in rule.scripts) + "]")
    return letters > 0 and len(wanted.findall(text)) < rule.share * letters


def _truncated_answer(record: Record, params: QualityParams) -> bool:
    """Return whether a long answer stops in the middle; short ones, often mere names, never do."""
    answer = record.answer.rstrip()
    length = len(answer) + len(_WIDE.findall(answer))
    return length >= params.truncated_answer.characters and is_cut(answer)


# In the order in which they are asked; the first that is broken names the removal.
_RULES: dict[str, Callable[[Record, QualityParams], bool]] = {
    "too_short": _too_short,
    "too_long": _too_long,
    "repetitive": _repetitive,
    "boilerplate": _boilerplate,
    "wrong_language": _wrong_language,
    "truncated_answer": _truncated_answer,
}
RULE_NAMES = tuple(_RULES)
