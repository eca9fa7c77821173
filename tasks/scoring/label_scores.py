"""Scores of labels: accuracy, F1 by label, what was taken for what, and calibration.

A label is right or wrong: there is no half credit for a label that shares words with the right one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.records.text import normalise, text_sha256
from tasks.scoring.answer_scores import f_measure

# Raise it with every change by which the same label gets another score.
LABEL_SCORING_VERSION = 1
BINS = 10


def label_match(output: str, reference: str) -> float:
    """Return 1 when both are the same label, else 0.

    Case and spaces don't count: labels that differ in these alone are refused before training.
    """
    return float(normalise(output) == normalise(reference))


def label_scoring_sha256() -> str:
    """Return the hash of this scoring: equal where the same label gets the same scores."""
    return text_sha256(f"label scoring version {LABEL_SCORING_VERSION}")


@dataclass(frozen=True)
class LabelScores:
    """One label: its precision, recall and F1, 0 where they are undefined; its records."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Confusion:
    """How often each label was given for each: `counts[right][given]`, by place.

    Rows are `labels`, in order; so are columns, with one more at the end for all other texts.
    `outside` counts the answers that are none of the closed set.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    outside: int

    @classmethod
    def of(
        cls, outputs: Sequence[str], references: Sequence[str], labels: Sequence[str]
    ) -> "Confusion":
        """Return the confusion of a closed set of labels.

        A reference outside the set has a row and a column of its own, behind the others.
        """
        names = {normalise(label): label for label in labels}
        unlearned = {normalise(text): text for text in references if normalise(text) not in names}
        ordered = [*names, *sorted(unlearned)]
        columns = {key: place for place, key in enumerate(ordered)}
        counts = [[0] * (len(ordered) + 1) for _ in ordered]
        outside = 0
        for output, reference in zip(outputs, references, strict=True):
            key = normalise(output)
            outside += key not in names
            counts[columns[normalise(reference)]][columns.get(key, len(ordered))] += 1
        shown = tuple((names | unlearned)[key] for key in ordered)
        return cls(shown, tuple(map(tuple, counts)), outside)

    def by_label(self) -> dict[str, LabelScores]:
        """Return the scores of each label."""
        given = [sum(column) for column in zip(*self.counts, strict=True)]
        found = {}
        for place, label in enumerate(self.labels):
            right, support = self.counts[place][place], sum(self.counts[place])
            found[label] = LabelScores(
                precision=right / given[place] if given[place] else 0.0,
                recall=right / support if support else 0.0,
                f1=f_measure(right, given[place], support) if right else 0.0,
                support=support,
            )
        return found

    def macro_f1(self) -> float:
        """Return the mean F1 of the labels that records have: each counts the same."""
        there = [one.f1 for one in self.by_label().values() if one.support]
        return sum(there) / len(there)


@dataclass(frozen=True)
class CalibrationBin:
    """The answers whose probability lies in one tenth: how many, its mean, and how many right."""

    answers: int
    probability: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far a model's own probabilities are from how often it is right.

    `ece` is the expected calibration error (Guo et al. 2017, arXiv:1706.04599, section 2): over ten
    bins of equal width, the mean distance of probability and accuracy, weighed by their answers.
    """

    ece: float
    bins: tuple[CalibrationBin, ...]

    @classmethod
    def of(cls, probabilities: Sequence[float], scores: Sequence[float]) -> "Calibration":
        """Return the calibration of answers by their probabilities, in [0, 1], and their scores."""
        counts: Counter[int] = Counter()
        sums = [[0.0, 0.0] for _ in range(BINS)]
        for probability, score in zip(probabilities, scores, strict=True):
            place = min(int(probability * BINS), BINS - 1)
            counts[place] += 1
            sums[place][0] += probability
            sums[place][1] += score
        bins = tuple(
            CalibrationBin(counts[place], *(value / counts[place] for value in sums[place]))
            for place in sorted(counts)
        )
        apart = sum(one.answers * abs(one.probability - one.accuracy) for one in bins)
        return cls(apart / len(probabilities), bins)
