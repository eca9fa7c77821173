"""Which rows are worth learning from: named rules, each with its thresholds in params."""

from collections.abc import Callable
from functools import cache

import regex

from tasks.curation.params import QualityParams
from tasks.curation.questions import question_text
from tasks.records.schema import Record
from tasks.records.text import normalise, text_tokens

_LETTER = regex.compile(r"\p{L}")
_OPENING = {")": "(", "]": "[", "}": "{"}
_FENCE = "```"
# An answer that was cut ends so: in the middle of a list or a bracket, or on a word that leads on.
_CUT = regex.compile(
    r"(?:[,:;(\[{&+/=<]|(?<=\s)[-–—]"
    r"|(?<=\s)(?:a|an|the|and|or|nor|of|to|in|on|at|by|for|from|with|into|than|that|which|whose"
    r"|is|are|was|were|be|been|has|have|had|if|because|while|when|where|as"
    r"|그리고|하지만|그러나|그래서|그런데|또는|혹은|및|왜냐하면|따라서))$",
    regex.IGNORECASE,
)


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
    if len(answer) < params.truncated_answer.characters:
        return False
    return bool(_CUT.search(answer)) or answer.count(_FENCE) % 2 == 1 or _ends_inside(answer)


def _ends_inside(text: str) -> bool:
    """Return whether the last sentence opens a bracket that nothing closes."""
    last = text[max(text.rfind("\n"), text.rfind(". ")) + 1 :]
    opened: list[str] = []
    for character in last:
        if character in "([{":
            opened.append(character)
        elif opened and _OPENING.get(character) == opened[-1]:
            opened.pop()
    return bool(opened) and not text.endswith((".", "!", "?", "。", '"', "'"))


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
