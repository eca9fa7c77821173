"""The language of a data set: named by params, or told by the script that it is written in."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import regex

from tasks.records.schema import Record, stream_records

AUTO = "auto"
ENGLISH = "en"
_LETTER = regex.compile(r"\p{L}")
_SCRIPTS: Mapping[str, regex.Pattern[str]] = {"ko": regex.compile(r"\p{Hangul}")}
# Korean texts hold names and terms in Latin letters, one a syllable where Hangul has one a block.
_LEAST_SHARE = 0.3
_LOOKED_AT = 1000  # records: more would cost seconds and tell nothing new


def data_language(named: str, curated: Path) -> str:
    """Return the language of a curated set: the one named, or with `auto` that of its first
    training records.
    """
    if named != AUTO:
        return named
    return find_language(islice(stream_records(curated / "train.jsonl"), _LOOKED_AT))


def find_language(records: Iterable[Record]) -> str:
    """Return the language whose script more than half of the records are written in, else `en`.

    A record counts where its question and answer have a good share of their letters in the script.
    """
    texts = [f"{record.question}\n{record.answer}" for record in records]
    for language, script in _SCRIPTS.items():
        written = sum(_share(text, script) >= _LEAST_SHARE for text in texts)
        if 2 * written > len(texts):
            return language
    return ENGLISH


def _share(text: str, script: regex.Pattern[str]) -> float:
    letters = len(_LETTER.findall(text))
    return len(script.findall(text)) / letters if letters else 0.0
