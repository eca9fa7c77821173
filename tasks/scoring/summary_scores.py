"""Scores of a summary: overlap with its reference, compression, and what its source supports.

Tokens are those of `tasks.scoring.tokens`, so Korean, Chinese, Japanese and Thai count by
character: `서울은` and `서울이` share two of three tokens, where words would share none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from tasks.records.text import text_sha256
from tasks.scoring.answer_scores import f_measure, rouge_l
from tasks.scoring.grounding import ShownPassages, ground, unsupported_items
from tasks.scoring.identity import SCORING_VERSION
from tasks.scoring.tokens import answer_tokens

# Raise it with every change by which the same summary gets another score.
SUMMARY_SCORING_VERSION = 1

# A sentence stands in its source if so many of its terms do, and each of its numbers and names.
SUPPORTED_TERMS = 0.75

# After a full stop comes a space, or "3.5" and "json.dumps" would end sentences; 。 needs none.
_SENTENCE_END = regex.compile(
    r"(?<=[.!?…][\"'”’)\]»]*)\s+|(?<=[。！？][」』”’）]*)(?![」』”’）])\s*|\s*\n\s*"
)


@dataclass(frozen=True)
class SummaryScores:
    """One summary; ROUGE and shares are in [0, 1].

    `compression`: its tokens over its source's. `supported_terms`: the share of its terms that the
    source holds, each as often (see `tasks.scoring.grounding`); `supported_sentences`: the share of
    its sentences that the source supports. Both are None of an empty summary. `numbers_and_names`:
    how many different ones it holds, `unsupported` of which the source lacks.
    """

    rouge_1: float
    rouge_2: float
    rouge_l: float
    compression: float
    supported_terms: float | None
    supported_sentences: float | None
    numbers_and_names: int
    unsupported: int


def score_summary(output: str, source: str, reference: str) -> SummaryScores:
    """Return the scores of a summary of a source text, which holds at least one token."""
    return SummaryScores(
        rouge_1=rouge_n(output, reference, 1),
        rouge_2=rouge_n(output, reference, 2),
        rouge_l=rouge_l(output, reference),
        compression=len(answer_tokens(output)) / len(answer_tokens(source)),
        supported_terms=supported_terms(output, source),
        supported_sentences=supported_sentences(output, source),
        numbers_and_names=len(unsupported_items(output, [""])),
        unsupported=len(unsupported_items(output, [source])),
    )


def rouge_n(output: str, reference: str, n: int) -> float:
    """Return the F-measure (beta 1) of the runs of n tokens that both share, as multisets.

    Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), section 2. Where neither has
    a run so long, it is 1 if both are the same tokens, else 0.
    """
    found, expected = answer_tokens(output), answer_tokens(reference)
    if max(len(found), len(expected)) < n:
        return float(found == expected)
    ours, theirs = _runs(found, n), _runs(expected, n)
    return f_measure((ours & theirs).total(), ours.total(), theirs.total())


def supported_terms(output: str, source: str) -> float | None:
    """Return the share of a summary's terms that its source holds, None where it has none."""
    return ground(output, ShownPassages("", (source,), (False,)), ()).groundedness


def supported_sentences(output: str, source: str) -> float | None:
    """Return the share of a summary's sentences that its source supports, None where it has none.

    Three quarters of the terms of such a sentence stand in the source, and all its numbers and
    names.
    """
    shares = [(one, supported_terms(one, source)) for one in sentences(output)]
    claims = [(one, share) for one, share in shares if share is not None]
    if not claims:
        return None
    held = [
        share >= SUPPORTED_TERMS and not unsupported_items(one, [source]) for one, share in claims
    ]
    return sum(held) / len(held)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: what ends in . ! ? … before a space, in 。！？, or a line."""
    return [one for one in map(str.strip, _SENTENCE_END.split(text)) if one]


def summary_scoring_sha256() -> str:
    """Return the hash of this scoring, which counts the tokens and terms of the scoring of answers:
    equal where the same summary gets the same scores.
    """
    return text_sha256(f"summary scoring version {SUMMARY_SCORING_VERSION}, {SCORING_VERSION}")


def _runs(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))
