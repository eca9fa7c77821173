"""Scores of one answer against its reference, in [0, 1], correct for any script.

Every aggregate but the length ratio is the mean of these: the metrics that
`evaluate.load` loads call them and nothing else. A metric that can't be had is null, with a
reason beside it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from tasks.records.text import normalise
from tasks.scoring.tokens import answer_tokens, answer_words

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

Metrics = dict[str, float | int | str | None]


def null(name: str, reason: str) -> Metrics:
    """Return a metric that could not be computed, and why."""
    return {name: None, f"{name}_reason": reason}


def mean_of(name: str, values: Iterable[float | None], reason: str) -> Metrics:
    """Return the mean of the values that are there, and over how many; null where none is."""
    there = [value for value in values if value is not None]
    mean: Metrics = {name: sum(there) / len(there)} if there else null(name, reason)
    return mean | {f"{name}_records": len(there)}


def token_f1(output: str, reference: str) -> float:
    """Return the harmonic mean of the precision and recall of the output's tokens, as multisets."""
    found, expected = answer_tokens(output), answer_tokens(reference)
    return f_measure((Counter(found) & Counter(expected)).total(), len(found), len(expected))


def f_measure(common: int, found: int, expected: int) -> float:
    """Return the F-measure (beta 1) of so many common ones; 1 where there is nothing on either
    side.
    """
    return 2 * common / (found + expected) if common else float(found == expected == 0)


def exact_match(output: str, reference: str) -> float:
    """Return 1 when both have the same tokens in the same order, else 0."""
    return float(answer_words(output) == answer_words(reference))


def rouge_l(output: str, reference: str) -> float:
    """Return the F-measure (beta 1) of the longest common subsequence of tokens.

    Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), section 3. Tokens are ours:
    the reference package drops every letter that is not ASCII.
    """
    found, expected = answer_tokens(output), answer_tokens(reference)
    return f_measure(_common_subsequence(found, expected), len(found), len(expected))


def chrf(output: str, reference: str) -> float:
    """Return sacrebleu's chrF2 of one sentence, divided by 100, over normalised text."""
    expected = normalise(reference)
    return float(_chrf_scorer().sentence_score(normalise(output), [expected]).score) / 100


SCORES: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "chrf": chrf,
}


def length_ratio(outputs: Sequence[str], references: Sequence[str]) -> float | None:
    """Return the outputs' tokens over their references', as sums, so that no short reference weighs
    most.

    None where the references hold no token.
    """
    expected = sum(len(answer_tokens(reference)) for reference in references)
    found = sum(len(answer_tokens(output)) for output in outputs)
    return found / expected if expected else None


def length_metrics(outputs: Sequence[str], references: Sequence[str]) -> Metrics:
    """Return the length ratio over many pairs, null with a reason where there is none."""
    ratio = length_ratio(outputs, references)
    if ratio is None:
        return null("length_ratio", "no reference holds a token")
    return {"length_ratio": ratio}


def mean_score(name: str, outputs: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean of one score over pairs of output and reference."""
    pairs = list(zip(outputs, references, strict=True))
    return sum(SCORES[name](output, reference) for output, reference in pairs) / len(pairs)


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, in O(len(left) x len(right))."""
    row = [0] * (len(right) + 1)
    for token in left:
        diagonal = 0
        for at, other in enumerate(right, start=1):
            above = row[at]
            row[at] = diagonal + 1 if token == other else max(above, row[at - 1])
            diagonal = above
    return row[-1]


@cache
def _chrf_scorer() -> "CHRF":
    # Imported where an answer is scored: who reads scores alone has no use for it.
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def abstains(text: str, markers: Sequence[str]) -> bool:
    """Return whether an answer begins with one of the markers, apostrophes of any shape alike."""
    answer = _plain(text)
    return answer.startswith(tuple(_plain(marker) for marker in markers))


def _plain(text: str) -> str:
    return normalise(text).replace("\u2019", "'")


def abstention_scores(given: Sequence[bool], wanted: Sequence[bool]) -> Metrics:
    """Return precision and recall of abstaining: which answers did, and which should have.

    Null with a reason where no answer abstained, or where none should have.
    """
    right = sum(one and other for one, other in zip(given, wanted, strict=True))
    found: Metrics = {}
    parts = (("precision", given, "no answer abstained"), ("recall", wanted, "none should abstain"))
    for name, total, reason in parts:
        name = f"abstention_{name}"
        found |= {name: right / sum(total)} if any(total) else null(name, reason)
    return found
