"""Answers that say that they do not know, and whether they should."""

from collections.abc import Sequence

from tasks.evaluation.nulls import Metrics, null
from tasks.records.text import normalise


def abstains(text: str, markers: Sequence[str]) -> bool:
    """Whether an answer begins with one of the markers, apostrophes of any shape alike."""
    answer = _plain(text)
    return answer.startswith(tuple(_plain(marker) for marker in markers))


def _plain(text: str) -> str:
    return normalise(text).replace("\u2019", "'")


def abstention_scores(given: Sequence[bool], wanted: Sequence[bool]) -> Metrics:
    """Precision and recall of abstaining: which answers did, and which should have.

    Null with a reason where no answer abstained, or where none should have.
    """
    right = sum(one and other for one, other in zip(given, wanted, strict=True))
    found: Metrics = {}
    parts = (("precision", given, "no answer abstained"), ("recall", wanted, "none should abstain"))
    for name, total, reason in parts:
        name = f"abstention_{name}"
        found |= {name: right / sum(total)} if any(total) else null(name, reason)
    return found
