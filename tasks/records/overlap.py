"""How much an answer and its reference share, in tokens: the score that a release stands on."""

from collections import Counter

from tasks.records.text import score_tokens


def token_f1(output: str, reference: str) -> float:
    """The harmonic mean of the precision and recall of the output's tokens, as multisets."""
    found, expected = score_tokens(output), score_tokens(reference)
    return f_measure((Counter(found) & Counter(expected)).total(), len(found), len(expected))


def f_measure(common: int, found: int, expected: int) -> float:
    """The F-measure (beta 1) of so many common ones; 1 where there is nothing on either side."""
    return 2 * common / (found + expected) if common else float(found == expected == 0)
